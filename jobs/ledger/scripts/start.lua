-- Decide whether a worker renders a job, and record that it does.
-- KEYS states counts jobs replaced cancels delayed batches deleted refusals
-- ARGV id, job, worker, now, max_attempts, worker key prefix, and the attempt from which on a start is only reported,
-- not made (0: none)
-- Returns the decision, the attempts, and 1 where the ledger did not know the job.
local id, worker = ARGV[1], ARGV[3]
local old = redis.call('HGET', KEYS[1], id)
local adopted = old and 0 or 1
if not old then
  if is_deleted(KEYS[1], KEYS[7], KEYS[8]) then return {'cancelled', 0, 0} end
  -- A message that outlived its ledger: the ledger takes the job up again.
  redis.call('HSET', KEYS[3], id, ARGV[2])
  move(KEYS[1], KEYS[2], id, nil, 'queued 0')
  old = 'queued 0'
end
redis.call('ZREM', KEYS[6], entry(KEYS[1], id))
local parts = split(old)
local state, attempts = parts[1], tonumber(parts[2])
if state == 'cancelled' or state == 'superseded' then return {'cancelled', attempts, 0} end
if terminal[state] then return {'finished', attempts, 0} end
if state == 'running' and (parts[3] == worker or redis.call('EXISTS', ARGV[6] .. parts[3]) == 1) then
  return {'in_flight', attempts, 0}
end
local keys = {states = KEYS[1], counts = KEYS[2], jobs = KEYS[3], replaced = KEYS[4], cancels = KEYS[5]}
keys.delayed, keys.refusals = KEYS[6], KEYS[9]
if end_if_replaced(keys, id, old) then return {'cancelled', attempts, 0} end
-- Cancelled while it ran, and its worker died or put it back before it saw that.
if redis.call('SISMEMBER', KEYS[5], id) == 1 then return {'cancel', attempts, 0} end
if attempts >= tonumber(ARGV[5]) then return {'quarantined', attempts, 0} end
local last = tonumber(ARGV[7])
if last > 0 and attempts + 1 >= last then
  move(KEYS[1], KEYS[2], id, old, 'queued ' .. attempts)
  return {'last', attempts, adopted}
end
move(KEYS[1], KEYS[2], id, old, 'running ' .. (attempts + 1) .. ' ' .. worker .. ' ' .. ARGV[4])
return {'run', attempts + 1, adopted}
