-- Enter a terminal state.
-- KEYS states counts jobs results cancels superseded replaced engine_sets
-- ARGV id, state, result
-- Returns 1 the first time.
local id, state = ARGV[1], ARGV[2]
local old = redis.call('HGET', KEYS[1], id)
if old and terminal[split(old)[1]] then return 0 end
local attempts = old and split(old)[2] or '1'
redis.call('SREM', KEYS[5], id)
if redis.call('SREM', KEYS[7], id) == 1 then
  redis.call('HSET', KEYS[6], id, ARGV[3])
  redis.call('HDEL', KEYS[3], id)
  move(KEYS[1], KEYS[2], id, old, 'superseded ' .. attempts .. ' ' .. state)
  return 1
end
move(KEYS[1], KEYS[2], id, old, state .. ' ' .. attempts)
redis.call('HSET', KEYS[4], id, ARGV[3])
-- A done job is never rendered again, so its message is not needed any more; a failed one may be retried.
if state == 'done' then
  redis.call('HDEL', KEYS[3], id)
  count_engine_set(KEYS[8], ARGV[3], 1)
end
return 1
