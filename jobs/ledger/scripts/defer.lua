-- A worker gives a job back, to be queued after a while. It may have started the job or not, and so may a worker that
-- has died since.
-- KEYS states counts jobs cancels delayed batches deleted
-- ARGV id, job, worker, seconds, refund (1 where the attempt was not the job's fault), max_attempts, and the worker key prefix, or ''
-- if the caller may not give back the job of a dead worker
-- Returns 1 if the job is delayed now.
local id = ARGV[1]
local old = redis.call('HGET', KEYS[1], id)
if not old and is_deleted(KEYS[1], KEYS[6], KEYS[7]) then return 0 end
if not old then  -- a message that outlived its ledger: the ledger takes the job up again
  redis.call('HSET', KEYS[3], id, ARGV[2])
  old = 'queued ' .. adopted_attempts(ARGV[6])
  move(KEYS[1], KEYS[2], id, nil, old)
end
local parts = split(old)
local is_ours = parts[1] == 'running' and parts[3] == ARGV[3]
local is_orphan = parts[1] == 'running' and not is_ours and ARGV[7] ~= ''
  and redis.call('EXISTS', ARGV[7] .. parts[3]) == 0
if parts[1] ~= 'queued' and not is_ours and not is_orphan then return 0 end
if parts[3] == 'delayed' then return 1 end  -- this was a second message of the job: its entry stays
local seconds = tonumber(ARGV[4])
if redis.call('SISMEMBER', KEYS[4], id) == 1 then seconds = 0 end  -- cancelled: the next start records that
delay(KEYS[1], KEYS[2], KEYS[5], id, old, tonumber(parts[2]) - (is_ours and tonumber(ARGV[5]) or 0), seconds)
return 1
