-- The job ids in one stretch of the queue. In Lua because a message is some hundred times as long as its id, and a
-- queue may hold a million.
-- KEYS queue sifted
-- ARGV first, last
-- Returns the number of messages in that stretch, their job ids joined into one text, and the counter `sifted`.
local items = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local ids = {}
for _, item in ipairs(items) do ids[#ids + 1] = id_of(item) end
return {#items, table.concat(ids), redis.call('GET', KEYS[2]) or '0'}
