-- Queue new jobs, record finished ones, and supersede the earlier versions of corrected rows.
-- KEYS states counts jobs results rows superseded replaced cancels engine_sets refusals row_prefixes delayed queue
-- batches deleted deleting
-- ARGV (id, row, job, message, result or '', running line or '', replaces)*
-- `replaces` is '*' where the job is submitted: it becomes its row's current version, whatever that was. In a rebuild it is
-- the id of the only current version that may give way to it, or ''. Jobs that the ledger knows keep their states there,
-- but for that version, and a job that may not have its row is entered as an earlier version of it.
-- Returns a flat list name, number, ...: the jobs by the state in which each was found, and those that were
-- `added`, `recovered` and `replaced`. Only {'deleted', 1} where the batch was deleted or is being deleted.
local states, counts, jobs, results, rows = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local superseded, replaced, cancels, engine_sets = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local refusals, row_prefixes, delayed, queue = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
if is_deleted(states, KEYS[14], KEYS[15]) or redis.call('HEXISTS', KEYS[16], batch_of(states)) == 1 then
  return {'deleted', 1}
end
-- A row's key is its file's prefix and its number. Jobs have no file in their ids, so rows of two files that are equal in
-- number and parameters stand for one job, and it goes on as long as one of them asks for it.
local function number_of(row) return string.match(row, '%d+$') or '' end
local prefixes = nil
local function is_wanted_elsewhere(id, row)
  prefixes = prefixes or redis.call('SMEMBERS', row_prefixes)
  for _, prefix in ipairs(prefixes) do
    local other = prefix .. number_of(row)
    if other ~= row and redis.call('HGET', rows, other) == id then return true end
  end
  return false
end
local tally = {}
local function count(what) tally[what] = (tally[what] or 0) + 1 end
-- The user's cancellation goes too. It was meant for what ends here, and would end the job unseen if that began anew.
local function forget(id)
  redis.call('SREM', cancels, id)
  forget_refusals(states, refusals, delayed, id)
end
local function supersede(id)
  local old = redis.call('HGET', states, id)
  local parts = old and split(old) or {'superseded'}
  if parts[1] == 'superseded' then return end
  count('replaced')
  if parts[1] == 'running' then  -- its worker ends it at its next step
    redis.call('SADD', replaced, id)
    redis.call('SADD', cancels, id)
    return
  end
  local result = redis.call('HGET', results, id)
  if result then
    redis.call('HSET', superseded, id, result)
    redis.call('HDEL', results, id)
    if parts[1] == 'done' then count_engine_set(engine_sets, result, -1) end
  end
  redis.call('HDEL', jobs, id)
  forget(id)
  move(states, counts, id, old, 'superseded ' .. parts[2] .. ' ' .. parts[1])
end
local function revive(id, old)
  local parts = split(old)
  local result = redis.call('HGET', superseded, id)
  redis.call('HDEL', superseded, id)
  if parts[3] ~= 'done' or not result then return false end
  redis.call('HSET', results, id, result)
  move(states, counts, id, old, 'done ' .. parts[2])
  count_engine_set(engine_sets, result, 1)
  return true
end
-- Whether a job becomes the current version of its row, which `before` is now.
local function takes_over(id, old, before, replaces)
  if replaces == '*' then return true end
  local is_earlier = old and (split(old)[1] == 'superseded' or redis.call('SISMEMBER', replaced, id) == 1)
  return not before or not is_earlier and (before == replaces or redis.call('HEXISTS', states, before) == 0)
end
redis.call('SADD', row_prefixes, string.sub(ARGV[2], 1, #ARGV[2] - #number_of(ARGV[2])))
for i = 1, #ARGV, 7 do
  local id, row, job, message, result, running, replaces = unpack(ARGV, i, i + 6)
  local before = redis.call('HGET', rows, row)
  local old = redis.call('HGET', states, id)
  local is_current = before == id or takes_over(id, old, before, replaces)
  if is_current and before ~= id then
    if before and not is_wanted_elsewhere(before, row) then supersede(before) end
    redis.call('HSET', rows, row, id)
    if redis.call('SREM', replaced, id) == 1 then redis.call('SREM', cancels, id) end
  end
  local state = old and split(old)[1]
  if state == 'superseded' and not is_current then
    state = nil  -- a rebuild leaves it as it is
  elseif state == 'superseded' and revive(id, old) then
    count('done')
  elseif result ~= '' and (not old or state == 'queued' or state == 'superseded') then
    redis.call('HSET', results, id, result)
    redis.call('HDEL', jobs, id)
    forget(id)
    move(states, counts, id, old, 'done 1')
    count_engine_set(engine_sets, result, 1)
    count('recovered')
  elseif old and state ~= 'superseded' then
    count(state)
  elseif not is_current and running == '' then  -- no message is needed
    move(states, counts, id, old, 'superseded 0 queued')
  else
    redis.call('HSET', jobs, id, job)
    if old then forget(id) end  -- earlier versions left cancellations behind
    if running ~= '' then
      move(states, counts, id, old, running)
      count('running')
    else
      move(states, counts, id, old, 'queued 0')
      redis.call('LPUSH', queue, message)
      count('added')
    end
  end
  if not is_current and not old then supersede(id) end
end
local flat = {}
for what, number in pairs(tally) do flat[#flat + 1] = what; flat[#flat + 1] = number end
return flat
