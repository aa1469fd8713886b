-- Forget a batch, in one step. Redis frees long keys in a thread of its own (UNLINK), so a million jobs take no longer
-- than one.
-- KEYS batches deleted deleting counts, and the other keys of the batch
-- ARGV batch, token of the deletion ('' where none was begun), 1 to forget jobs that have not ended as well, and for how
-- many seconds the deletion is remembered
-- Returns 'forgotten'; 'active' where a job has not ended; 'taken' where another deletion of the batch was begun.
local batch, token = ARGV[1], ARGV[2]
local begun = redis.call('HGET', KEYS[3], batch)
if (begun and split(begun)[1] or '') ~= token then return 'taken' end
local unfinished = 0
for _, number in ipairs(redis.call('HMGET', KEYS[4], 'queued', 'running')) do
  unfinished = unfinished + (tonumber(number or 0) or 1)
end
if unfinished > 0 and ARGV[3] ~= '1' then return 'active' end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.3f', now() - tonumber(ARGV[4])))
redis.call('ZADD', KEYS[2], string.format('%.3f', now()), batch)
redis.call('HDEL', KEYS[1], batch)
redis.call('HDEL', KEYS[3], batch)
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 'forgotten'
