-- Delayed jobs whose time has come, the longest overdue first. An entry that is not a job is removed: another
-- program may have written it, and it must not be in the way of jobs.
-- KEYS delayed unheld
-- ARGV how many at most, and of how many that wait for a worker with their engine set the entries are wanted too
-- Returns {those whose time has come, those that wait for such a worker}
local due, unheld, until_now = {}, {}, string.format('%.3f', now() + 0.001)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', until_now, 'LIMIT', 0, ARGV[1])) do
  local batch, id = string.match(member, '^(%w[%w._-]*) (%x+)$')
  if batch and #id == 20 then due[#due + 1] = member else redis.call('ZREM', KEYS[1], member) end
end
if tonumber(ARGV[2]) > 0 then
  for _, member in ipairs(redis.pcall('SRANDMEMBER', KEYS[2], ARGV[2])) do
    local at = redis.call('ZSCORE', KEYS[1], member)
    if not at then redis.call('SREM', KEYS[2], member)  -- it ended, or another version of this program queued it
    elseif tonumber(at) > tonumber(until_now) then unheld[#unheld + 1] = member end
  end
end
return {due, unheld}
