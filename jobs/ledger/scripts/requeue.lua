-- Queue a job again, if its line is still exactly as the caller saw it and its batch is not being deleted.
-- KEYS states counts queue results refusals delayed deleting
-- ARGV id, expected line, new line, message or '', end of the queue ('head' or 'tail')
-- Returns 1 if the job moved.
local id = ARGV[1]
if redis.call('HGET', KEYS[1], id) ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', KEYS[7], batch_of(KEYS[1])) == 1 then return 0 end
move(KEYS[1], KEYS[2], id, ARGV[2], ARGV[3])
redis.call('HDEL', KEYS[4], id)
redis.call('ZREM', KEYS[6], entry(KEYS[1], id))
if terminal[split(ARGV[2])[1]] then redis.call('HDEL', KEYS[5], id) end  -- a retry: workers that refused it may try again
-- Workers pop from the right, so the right end is the head of the queue.
if ARGV[4] ~= '' then redis.call(ARGV[5] == 'head' and 'RPUSH' or 'LPUSH', KEYS[3], ARGV[4]) end
return 1
