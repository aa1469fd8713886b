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
-- Count a done job (by 1), or a done job that is superseded (by -1), for the engine set that its result names. Workers of
-- an earlier version do not count, so there may be nothing to take away; a number below the true one is an answer, one
-- below zero is not.
local function count_engine_set(engine_sets, result, by)
  local is_json, fields = pcall(cjson.decode, result)
  local digest = is_json and type(fields) == 'table' and fields.engine_set
  if type(digest) ~= 'string' or digest == '' then return end
  local field = digest .. ' ' .. (type(fields.model_name) == 'string' and fields.model_name or '')
  if by > 0 or tonumber(redis.call('HGET', engine_sets, field) or '0') > 0 then
    redis.call('HINCRBY', engine_sets, field, by)
  end
end
-- Queue a job again, if its line is still exactly as the caller saw it.
-- KEYS states counts queue results
-- ARGV id, expected line, new line, message or '', end of the queue ('head' or 'tail')
-- Returns 1 if the job moved.
local id = ARGV[1]
if redis.call('HGET', KEYS[1], id) ~= ARGV[2] then return 0 end
move(KEYS[1], KEYS[2], id, ARGV[2], ARGV[3])
redis.call('HDEL', KEYS[4], id)
-- Workers pop from the right, so the right end is the head of the queue.
if ARGV[4] ~= '' then redis.call(ARGV[5] == 'head' and 'RPUSH' or 'LPUSH', KEYS[3], ARGV[4]) end
return 1
