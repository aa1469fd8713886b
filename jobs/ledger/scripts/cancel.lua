-- Cancel jobs: queued ones end at once, running ones at their next step.
-- KEYS states counts jobs results cancels replaced refusals delayed
-- ARGV (id, result)*
-- Returns a flat list state, number, ...: the jobs by the state in which each was found. `superseded` are also queued earlier
-- versions of corrected rows, which end here, but no longer belong to the batch.
local keys = {states = KEYS[1], counts = KEYS[2], jobs = KEYS[3], cancels = KEYS[5], replaced = KEYS[6]}
keys.refusals, keys.delayed = KEYS[7], KEYS[8]
local tally = {}
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  local old = redis.call('HGET', keys.states, id)
  if old then
    local parts = split(old)
    local state = parts[1]
    if state == 'queued' and end_if_replaced(keys, id, old) then
      state = 'superseded'
    elseif state == 'queued' then
      move(keys.states, keys.counts, id, old, 'cancelled ' .. parts[2])
      redis.call('HSET', KEYS[4], id, ARGV[i + 1])
      redis.call('SREM', keys.cancels, id)
      forget_refusals(keys.states, keys.refusals, keys.delayed, id)
    elseif state == 'running' then
      redis.call('SADD', keys.cancels, id)
    end
    tally[state] = (tally[state] or 0) + 1
  end
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
