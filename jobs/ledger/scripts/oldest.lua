-- When the message that waits longest was queued, of those at both ends of the queue: new ones come in at the tail, and
-- those that are given back at either end.
-- KEYS queue
-- ARGV how many to look at, at each end
-- Returns seconds since the epoch by the clock of the program that queued it; nothing if no message says it: those of
-- earlier versions do not. The tags of Celery's own messages are UUIDs, which have more hyphens.
local oldest
local function look(first, last)
  for _, item in ipairs(redis.call('LRANGE', KEYS[1], first, last)) do
    local digits = value_behind('"delivery_tag":', item, '^ ?"(%x%x%x%x%x%x%x%x)%-%x+"')
    local queued = digits and tonumber(digits, 16)
    if queued and (not oldest or queued < oldest) then oldest = queued end
  end
end
local number = tonumber(ARGV[1])
look(-number, -1)
look(0, number - 1)
return oldest
