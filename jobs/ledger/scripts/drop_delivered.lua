-- Remove messages that consumers have, of some batches' ended jobs, as if they had acknowledged them.
-- KEYS unacked unacked_index, and the lines of the batches
-- ARGV 1 for the messages of all jobs, and delivery tags
-- Returns how many were removed.
local dropped = 0
for i = 2, #ARGV do
  local message = redis.call('HGET', KEYS[1], ARGV[i])
  if message and is_left_over(message, 3, ARGV[1]) then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    dropped = dropped + 1
  end
end
return dropped
