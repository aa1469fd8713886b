"""The ledger's moves as Lua: each is atomic, and each only goes forward.

A state is one string in a hash, `<state> <attempts> <worker> <since>`; the last two only while running. `counts` is
kept beside it by the same script, so a batch is counted in O(1).
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
local terminal = {done = true, failed = true, cancelled = true}
"""

# KEYS states counts jobs queue; ARGV (id, job, message)*. Returns a flat list state, number, ... of what was there.
ENQUEUE = (
    _PRELUDE
    + """
local tally = {}
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  local old = redis.call('HGET', KEYS[1], id)
  local what = 'added'
  if old then
    what = split(old)[1]
  else
    move(KEYS[1], KEYS[2], id, nil, 'queued 0')
    redis.call('HSET', KEYS[3], id, ARGV[i + 1])
    redis.call('LPUSH', KEYS[4], ARGV[i + 2])
  end
  tally[what] = (tally[what] or 0) + 1
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
"""
)

# KEYS states counts jobs; ARGV id, job, worker, now, max_attempts, worker key prefix. Returns decision, attempts.
START = (
    _PRELUDE
    + """
local id, worker = ARGV[1], ARGV[3]
local old = redis.call('HGET', KEYS[1], id)
if not old then
  -- A message that outlived its ledger: the ledger takes the job up again.
  redis.call('HSET', KEYS[3], id, ARGV[2])
  move(KEYS[1], KEYS[2], id, nil, 'queued 0')
  old = 'queued 0'
end
local parts = split(old)
local state, attempts = parts[1], tonumber(parts[2])
if state == 'cancelled' then return {'cancelled', attempts} end
if terminal[state] then return {'finished', attempts} end
if state == 'running' and (parts[3] == worker or redis.call('EXISTS', ARGV[6] .. parts[3]) == 1) then
  return {'held', attempts}
end
if attempts >= tonumber(ARGV[5]) then return {'quarantined', attempts} end
move(KEYS[1], KEYS[2], id, old, 'running ' .. (attempts + 1) .. ' ' .. worker .. ' ' .. ARGV[4])
return {'run', attempts + 1}
"""
)

# KEYS states counts; ARGV id, worker, refund (1 where the attempt was not the job's fault). Returns 1 if moved.
HAND_BACK = (
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

# KEYS states counts jobs results cancels; ARGV id, state, result. Returns 1 the first time.
FINISH = (
    _PRELUDE
    + """
local id, state = ARGV[1], ARGV[2]
local old = redis.call('HGET', KEYS[1], id)
if old and terminal[split(old)[1]] then return 0 end
move(KEYS[1], KEYS[2], id, old, state .. ' ' .. (old and split(old)[2] or '1'))
redis.call('HSET', KEYS[4], id, ARGV[3])
-- A done job is never rendered again, so its message is not needed any more; a failed one may be retried.
if state == 'done' then redis.call('HDEL', KEYS[3], id) end
redis.call('SREM', KEYS[5], id)
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

# KEYS states counts results cancels; ARGV id, result. Returns the state it was in; queued jobs end at once, running
# ones at their next step.
CANCEL = (
    _PRELUDE
    + """
local id = ARGV[1]
local old = redis.call('HGET', KEYS[1], id)
if not old then return 'unknown' end
local parts = split(old)
if parts[1] == 'queued' then
  move(KEYS[1], KEYS[2], id, old, 'cancelled ' .. parts[2])
  redis.call('HSET', KEYS[3], id, ARGV[2])
elseif parts[1] == 'running' then
  redis.call('SADD', KEYS[4], id)
end
return parts[1]
"""
)
