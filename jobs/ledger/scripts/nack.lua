-- Running -> queued.
-- KEYS states counts
-- ARGV id, worker, refund (1 where the attempt was not the job's fault)
-- Returns 1 if the job moved.
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
local parts = split(old)
if parts[1] ~= 'running' or parts[3] ~= ARGV[2] then return 0 end
move(KEYS[1], KEYS[2], ARGV[1], old, 'queued ' .. (tonumber(parts[2]) - tonumber(ARGV[3])))
return 1
