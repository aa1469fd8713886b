-- Move a stretch of messages from the queue's head to its tail, without those of some batches' ended jobs. After one round
-- the others are in their order again. A list's ends are the only places where Redis removes many items fast.
-- KEYS queue sifted, and the lines of the batches
-- ARGV how many at most, the item at which the round ends ('' at its beginning), and 1 to drop those of all jobs
-- Returns how many were moved or dropped, how many were dropped, the item at which the round ends, and 1 at its end.
local mark, seen, dropped = ARGV[2], 0, 0
redis.call('INCR', KEYS[2])
while seen < tonumber(ARGV[1]) do
  local item = redis.call('RPOP', KEYS[1])
  if not item then return {seen, dropped, mark, 1} end
  if item == mark then
    redis.call('RPUSH', KEYS[1], item)
    return {seen, dropped, mark, 1}
  end
  seen = seen + 1
  if is_left_over(item, 3, ARGV[3]) then
    dropped = dropped + 1
  else
    redis.call('LPUSH', KEYS[1], item)
    if mark == '' and id_of(item) then mark = item end
  end
end
return {seen, dropped, mark, 0}
