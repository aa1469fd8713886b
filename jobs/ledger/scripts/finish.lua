-- Enter a terminal state.
-- KEYS states counts jobs results cancels superseded replaced engine_sets refusals delayed batches deleted newest failures
-- ARGV id, state, result, row, worker (or ''), worker key prefix, refuted key prefix, seconds that a refutation is kept,
-- and how many ids of `newest` and `failures` are kept
-- Returns 1 the first time; 0 also where the batch was deleted, and where another live worker renders what did not get done
-- here. A job that did not get done answers 1 again where the same end is recorded twice: the first answer may be lost.

local function refute(id, refusals, worker)
  local said = decoded(redis.call('HGET', refusals, id))
  if not said then return end
  local beat = decoded(redis.call('GET', ARGV[6] .. worker)) or {}
  local own_settings = type(beat.facts) == 'table' and beat.facts.settings or ''
  for _, refusal in ipairs(said) do
    local is_ours = type(refusal) == 'table' and type(refusal.by) == 'string'
    if is_ours and access[refusal.kind or ''] and refusal.worker ~= worker and refusal.by ~= own_settings then
      local refutation = {batch = batch_of(KEYS[1]), job = id, row = tonumber(ARGV[4]), by_worker = worker, at = now()}
      refutation.kind, refutation.text, refutation.refused_at = refusal.kind, refusal.text, refusal.at
      redis.call('SET', ARGV[7] .. refusal.by, cjson.encode(refutation), 'EX', ARGV[8])
    end
  end
end

-- Trimmed only now and then, so that most ends cost one command.
local function note(list, id, kept)
  if redis.call('LPUSH', list, id) > 2 * kept then redis.call('LTRIM', list, 0, kept - 1) end
end

local newest, failures = KEYS[13], KEYS[14]
local id, state = ARGV[1], ARGV[2]
local old = redis.call('HGET', KEYS[1], id)
local parts = split(old or '')
if terminal[parts[1] or ''] then
  local recorded = redis.call('HGET', KEYS[4], id) or redis.call('HGET', KEYS[6], id)
  return state ~= 'done' and recorded == ARGV[3] and 1 or 0
end
if not old and is_deleted(KEYS[1], KEYS[11], KEYS[12]) then return 0 end
-- The finisher lost its lease, and another worker has the job: a failure here says nothing of the attempt there.
local is_elsewhere = ARGV[5] ~= '' and parts[1] == 'running' and parts[3] ~= ARGV[5]
if state ~= 'done' and is_elsewhere and redis.call('EXISTS', ARGV[6] .. (parts[3] or '')) == 1 then return 0 end
local attempts = parts[2] or '1'
redis.call('SREM', KEYS[5], id)
if state == 'done' and ARGV[5] ~= '' then refute(id, KEYS[9], ARGV[5]) end
forget_refusals(KEYS[1], KEYS[9], KEYS[10], id)
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
  note(newest, id, tonumber(ARGV[9]))
elseif state == 'failed' then
  note(failures, id, tonumber(ARGV[9]))
end
return 1
