"""The ledger's moves as Lua: each is atomic, and each only goes forward.

A state is one string in a hash, `<state> <attempts> <worker> <since>`; the last two only while running. `counts` is
kept beside it by the same script, so a batch is counted in O(1).

A row that is submitted again with other parameters is a new job, and the earlier one is superseded, whatever became of
it. Its line then reads `superseded <attempts> <state before>`: the same parameters submitted once more bring it back.
"""

# Shared by all scripts: read a state, and write one with its counters.
_PRELUDE = """
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
"""

# KEYS states counts jobs results rows superseded replaced cancels queue;
# ARGV (id, row, job, message, result or '', running line or '')*. Returns a flat list state, number, ... of what was
# there, with what was `added`, `recovered` and `replaced`.
ENQUEUE = (
    _PRELUDE
    + """
local states, counts, jobs, results, rows = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local superseded, replaced, cancels, queue = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local tally = {}
local function count(what) tally[what] = (tally[what] or 0) + 1 end
local function supersede(id)
  local old = redis.call('HGET', states, id)
  local parts = old and split(old) or {'superseded'}
  if parts[1] == 'superseded' then return end
  count('replaced')
  if parts[1] == 'running' then  -- its worker ends it at its next step
    redis.call('SADD', replaced, id)
    redis.call('SADD', cancels, id)
    return
  end
  local result = redis.call('HGET', results, id)
  if result then
    redis.call('HSET', superseded, id, result)
    redis.call('HDEL', results, id)
  end
  redis.call('HDEL', jobs, id)
  move(states, counts, id, old, 'superseded ' .. parts[2] .. ' ' .. parts[1])
end
local function revive(id, old)
  local parts = split(old)
  local result = redis.call('HGET', superseded, id)
  redis.call('HDEL', superseded, id)
  if parts[3] ~= 'done' or not result then return false end
  redis.call('HSET', results, id, result)
  move(states, counts, id, old, 'done ' .. parts[2])
  return true
end
for i = 1, #ARGV, 6 do
  local id, row, job, message, result, running = unpack(ARGV, i, i + 5)
  local before = redis.call('HGET', rows, row)
  if before ~= id then
    if before then supersede(before) end
    redis.call('HSET', rows, row, id)
    if redis.call('SREM', replaced, id) == 1 then redis.call('SREM', cancels, id) end
  end
  local old = redis.call('HGET', states, id)
  local state = old and split(old)[1]
  if state == 'superseded' and revive(id, old) then
    count('done')
  elseif result ~= '' and (not old or state == 'queued' or state == 'superseded') then
    redis.call('HSET', results, id, result)
    redis.call('HDEL', jobs, id)
    move(states, counts, id, old, 'done 1')
    count('recovered')
  elseif old and state ~= 'superseded' then
    count(state)
  else
    redis.call('HSET', jobs, id, job)
    if running ~= '' then
      move(states, counts, id, old, running)
      count('running')
    else
      move(states, counts, id, old, 'queued 0')
      redis.call('LPUSH', queue, message)
      count('added')
    end
  end
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
"""
)

# KEYS states counts jobs replaced cancels; ARGV id, job, worker, now, max_attempts, worker key prefix, and the attempt
# from which on a start is only announced (0: none). Returns decision, attempts, and 1 where the ledger did not know the
# job.
START = (
    _PRELUDE
    + """
local id, worker = ARGV[1], ARGV[3]
local old = redis.call('HGET', KEYS[1], id)
local adopted = old and 0 or 1
if not old then
  -- A message that outlived its ledger: the ledger takes the job up again.
  redis.call('HSET', KEYS[3], id, ARGV[2])
  move(KEYS[1], KEYS[2], id, nil, 'queued 0')
  old = 'queued 0'
end
local parts = split(old)
local state, attempts = parts[1], tonumber(parts[2])
if state == 'cancelled' or state == 'superseded' then return {'cancelled', attempts, 0} end
if terminal[state] then return {'finished', attempts, 0} end
if state == 'running' and (parts[3] == worker or redis.call('EXISTS', ARGV[6] .. parts[3]) == 1) then
  return {'held', attempts, 0}
end
if redis.call('SREM', KEYS[4], id) == 1 then
  redis.call('SREM', KEYS[5], id)
  redis.call('HDEL', KEYS[3], id)
  move(KEYS[1], KEYS[2], id, old, 'superseded ' .. attempts .. ' queued')
  return {'cancelled', attempts, 0}
end
-- Cancelled while it ran, and its worker died or handed it back before it saw that.
if redis.call('SISMEMBER', KEYS[5], id) == 1 then return {'cancel', attempts, 0} end
if attempts >= tonumber(ARGV[5]) then return {'quarantined', attempts, 0} end
local announced = tonumber(ARGV[7])
if announced > 0 and attempts + 1 >= announced then
  move(KEYS[1], KEYS[2], id, old, 'queued ' .. attempts)
  return {'last', attempts, adopted}
end
move(KEYS[1], KEYS[2], id, old, 'running ' .. (attempts + 1) .. ' ' .. worker .. ' ' .. ARGV[4])
return {'run', attempts + 1, adopted}
"""
)

# KEYS states counts; ARGV id, worker, refund (1 where the attempt was not the job's fault). Returns 1 if moved.
NACK = (
    _PRELUDE
    + """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
local parts = split(old)
if parts[1] ~= 'running' or parts[3] ~= ARGV[2] then return 0 end
move(KEYS[1], KEYS[2], ARGV[1], old, 'queued ' .. (tonumber(parts[2]) - tonumber(ARGV[3])))
return 1
"""
)

# KEYS states counts jobs results cancels superseded replaced; ARGV id, state, result. Returns 1 the first time.
FINISH = (
    _PRELUDE
    + """
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
"""
)

# KEYS states counts queue results; ARGV id, expected state, new state, message, end ('head' or 'tail').
# Moves only what is still exactly as it was seen. Returns 1 if moved.
REQUEUE = (
    _PRELUDE
    + """
local id = ARGV[1]
if redis.call('HGET', KEYS[1], id) ~= ARGV[2] then return 0 end
move(KEYS[1], KEYS[2], id, ARGV[2], ARGV[3])
redis.call('HDEL', KEYS[4], id)
-- Workers pop from the right, so the right end is the head of the queue.
if ARGV[4] ~= '' then redis.call(ARGV[5] == 'head' and 'RPUSH' or 'LPUSH', KEYS[3], ARGV[4]) end
return 1
"""
)

# KEYS states counts queue unacked unacked_index; ARGV id, expected state, new state, delivery tag, message.
# Takes a message away from a consumer that died holding it. Returns 1 if moved.
RESTORE = (
    _PRELUDE
    + """
local id, tag = ARGV[1], ARGV[4]
if redis.call('HGET', KEYS[1], id) ~= ARGV[2] then return 0 end
if redis.call('HDEL', KEYS[4], tag) == 0 then return 0 end
redis.call('ZREM', KEYS[5], tag)
move(KEYS[1], KEYS[2], id, ARGV[2], ARGV[3])
redis.call('RPUSH', KEYS[3], ARGV[5])
return 1
"""
)

# KEYS states counts results cancels; ARGV (id, result)*. Returns a flat list state, number, ... of what each was;
# queued jobs end at once, running ones at their next step.
CANCEL = (
    _PRELUDE
    + """
local tally = {}
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  local old = redis.call('HGET', KEYS[1], id)
  if old then
    local parts = split(old)
    if parts[1] == 'queued' then
      move(KEYS[1], KEYS[2], id, old, 'cancelled ' .. parts[2])
      redis.call('HSET', KEYS[3], id, ARGV[i + 1])
      redis.call('SREM', KEYS[4], id)
    elseif parts[1] == 'running' then
      redis.call('SADD', KEYS[4], id)
    end
    tally[parts[1]] = (tally[parts[1]] or 0) + 1
  end
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
"""
)

# KEYS queue; ARGV first, last. Returns how many items are in that stretch, and the job ids in them as one text.
# Here, because an item is some hundred times as long as its id, and a queue may hold a million.
QUEUED_IDS = """
local key = '"correlation_id":'
local items = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local ids = {}
for _, item in ipairs(items) do
  -- Near the end of what the producer and kombu write; anywhere in what others do. In a prompt, its quotes are escaped.
  local at = string.find(item, key, -600, true) or string.find(item, key, 1, true)
  local id = at and string.match(item, '^ ?"(%x+)"', at + #key)
  if id and #id == 20 then ids[#ids + 1] = id end
end
return {#items, table.concat(ids)}
"""
