-- Shared by all scripts: read a job's line in the ledger, and write one with its counters.
--
-- A line is one string in the hash `states`: `<state> <attempts>`, with ` <worker> <since>` while running. The same
-- script that moves a job keeps `counts`, so counting a batch is O(1).
--
-- A row that is submitted again with other parameters is a new job, and it supersedes the earlier one, whatever became
-- of that. The earlier job's line then reads `superseded <attempts> <state before>`; submitting the same parameters once
-- more brings it back.
local function split(text)
  local parts = {}
  for part in string.gmatch(text, '%S+') do parts[#parts + 1] = part end
  return parts
end
local function move(states, counts, id, old, new)
  if old then redis.call('HINCRBY', counts, split(old)[1], -1) end
  redis.call('HINCRBY', counts, split(new)[1], 1)
  redis.call('HSET', states, id, new)
end
local terminal = {done = true, failed = true, cancelled = true, superseded = true}

-- Enter a terminal state.
-- KEYS states counts jobs results cancels superseded replaced
-- ARGV id, state, result
-- Returns 1 the first time.
local id, state = ARGV[1], ARGV[2]
local old = redis.call('HGET', KEYS[1], id)
if old and terminal[split(old)[1]] then return 0 end
local attempts = old and split(old)[2] or '1'
redis.call('SREM', KEYS[5], id)
if redis.call('SREM', KEYS[7], id) == 1 then
  redis.call('HSET', KEYS[6], id, ARGV[3])
  redis.call('HDEL', KEYS[3], id)
  move(KEYS[1], KEYS[2], id, old, 'superseded ' .. attempts .. ' ' .. state)
  return 1
end
move(KEYS[1], KEYS[2], id, old, state .. ' ' .. attempts)
redis.call('HSET', KEYS[4], id, ARGV[3])
-- A done job is never rendered again, so its message is not needed any more; a failed one may be retried.
if state == 'done' then redis.call('HDEL', KEYS[3], id) end
return 1
