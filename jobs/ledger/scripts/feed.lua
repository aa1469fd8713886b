-- Queue the message of a delayed job, if its time has come and the entry still stands for it.
-- KEYS states counts delayed queue unheld
-- ARGV id, message or '' where the job is not known any more
-- Returns 1 if the job has a message now.
local id = ARGV[1]
local due = redis.call('ZSCORE', KEYS[3], entry(KEYS[1], id))
if not due or tonumber(due) > now() + 0.001 then return 0 end  -- times are rounded to milliseconds
redis.call('ZREM', KEYS[3], entry(KEYS[1], id))
redis.pcall('SREM', KEYS[5], entry(KEYS[1], id))  -- if another program has replaced this key, jobs come in their time
local old = redis.call('HGET', KEYS[1], id)
local parts = split(old or '')
if parts[3] ~= 'delayed' or ARGV[2] == '' then return 0 end  -- started, ended or queued elsewhere meanwhile
move(KEYS[1], KEYS[2], id, old, 'queued ' .. parts[2])
redis.call('LPUSH', KEYS[4], ARGV[2])
return 1
