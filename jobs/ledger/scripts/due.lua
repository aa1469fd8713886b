-- Delayed jobs whose time has come, the longest overdue first. An entry that is not a job is removed: another
-- program may have written it, and it must not be in the way of jobs.
-- KEYS delayed
-- ARGV how many at most
local due, until_now = {}, string.format('%.3f', now() + 0.001)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', until_now, 'LIMIT', 0, ARGV[1])) do
  local batch, id = string.match(member, '^(%w[%w._-]*) (%x+)$')
  if batch and #id == 20 then due[#due + 1] = member else redis.call('ZREM', KEYS[1], member) end
end
return due
