-- Take a message back from a consumer that died while it had it, if the job's line is still as the caller saw it.
-- KEYS states counts queue unacked unacked_index delayed
-- ARGV id, expected line, new line, delivery tag, message
-- Returns 1 if the job moved.
local id, tag = ARGV[1], ARGV[4]
if redis.call('HGET', KEYS[1], id) ~= ARGV[2] then return 0 end
if redis.call('HDEL', KEYS[4], tag) == 0 then return 0 end
redis.call('ZREM', KEYS[5], tag)
redis.call('ZREM', KEYS[6], entry(KEYS[1], id))
move(KEYS[1], KEYS[2], id, ARGV[2], ARGV[3])
redis.call('RPUSH', KEYS[3], ARGV[5])
return 1
