-- The job ids in one stretch of the queue. In Lua because a message is some hundred times as long as its id, and a
-- queue may hold a million.
-- KEYS queue
-- ARGV first, last
-- Returns the number of messages in that stretch, and their job ids joined into one text.
local key = '"correlation_id":'
local items = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local ids = {}
for _, item in ipairs(items) do
  -- Near the end of what the producer and kombu write; anywhere in what others do. In a prompt, its quotes are escaped.
  local at = string.find(item, key, -600, true) or string.find(item, key, 1, true)
  local id = at and string.match(item, '^ ?"(%x+)"', at + #key)
  if id and #id == 20 then ids[#ids + 1] = id end
end
return {#items, table.concat(ids)}
