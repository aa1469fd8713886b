-- The messages of some batches' ended jobs in one stretch of the queue.
-- KEYS queue, and the lines of the batches
-- ARGV first, last, and 1 for the messages of all jobs
-- Returns the number of messages in that stretch, and the items.
local items = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local found = {}
for _, item in ipairs(items) do
  if is_left_over(item, 2, ARGV[3]) then found[#found + 1] = item end
end
return {#items, found}
