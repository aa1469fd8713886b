-- Take one message out of the queue, if its job has ended.
-- KEYS queue sifted, and the lines of the batches
-- ARGV item, and 1 if its job need not have ended
-- Returns how many items were removed.
if not is_left_over(ARGV[1], 3, ARGV[2]) then return 0 end
redis.call('INCR', KEYS[2])
return redis.call('LREM', KEYS[1], 1, ARGV[1])
