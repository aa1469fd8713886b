-- Cancel jobs: queued ones end at once, running ones at their next step.
-- KEYS states counts results cancels refusals delayed
-- ARGV (id, result)*
-- Returns a flat list state, number, ...: the jobs by the state in which each was found.
local tally = {}
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  local old = redis.call('HGET', KEYS[1], id)
  if old then
    local parts = split(old)
    if parts[1] == 'queued' then
      move(KEYS[1], KEYS[2], id, old, 'cancelled ' .. parts[2])
      redis.call('HSET', KEYS[3], id, ARGV[i + 1])
      redis.call('SREM', KEYS[4], id)
      forget_refusals(KEYS[1], KEYS[5], KEYS[6], id)
    elseif parts[1] == 'running' then
      redis.call('SADD', KEYS[4], id)
    end
    tally[parts[1]] = (tally[parts[1]] or 0) + 1
  end
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
