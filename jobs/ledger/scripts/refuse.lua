-- A worker refuses a job that it started, for a fault of its own. The job is queued again, not before a delay; or, where
-- every live worker has refused it or its attempts are used up, it stays running and the worker ends it.
-- KEYS states counts jobs cancels refusals delayed batches deleted unheld
-- ARGV id, job, worker, digest of its settings (or ''), refusal, refund (1 where the attempt was not the job's fault),
-- max_attempts, first and longest delay in seconds, queue, worker key prefix, refuted key prefix, what Redis did less than
-- a lease ago ('', 'start' or 'restart'), key of a live worker*
-- Returns {'final', 'delayed' or 'gone', the delay in seconds as text, the job's refusals as JSON}.
local states, counts, id, worker, queue, prefix = KEYS[1], KEYS[2], ARGV[1], ARGV[3], ARGV[10], ARGV[11]
local refund, max_attempts, first, longest = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local KEPT = 20  -- refusals of workers that are gone
-- So often one worker refuses a job, in nine minutes or less, before it no longer waits for those that may never take it.
local PATIENCE = 20

local old = redis.call('HGET', states, id)
-- Heartbeats expired while Redis was away, or were lost with the rest of it.
local forgiving = ARGV[13] == 'restart' or (ARGV[13] == 'start' and not old)
if not old and is_deleted(states, KEYS[7], KEYS[8]) then return {'gone', '0', '[]'} end
if not old then  -- a worker outlived its ledger: the ledger takes the job up again
  redis.call('HSET', KEYS[3], id, ARGV[2])
  old = 'running 1 ' .. worker .. ' 0'
  move(states, counts, id, nil, old)
  refund = math.min(refund, 1 - adopted_attempts(max_attempts))
end
local parts = split(old)
if parts[1] ~= 'running' or parts[3] ~= worker then return {'gone', '0', '[]'} end

local new, said, times = cjson.decode(ARGV[5]), {}, 1
for _, refusal in ipairs(decoded(redis.call('HGET', KEYS[5], id)) or {}) do
  if type(refusal) == 'table' and type(refusal.by) == 'string' then
    if refusal.by == new.by then times = (tonumber(refusal.times) or 1) + 1 else said[#said + 1] = refusal end
  end
end
new.times, new.at = times, now()  -- by one clock for all workers
said[#said + 1] = new

local refused_by = {}
for _, refusal in ipairs(said) do refused_by[refusal.by] = true end
-- Workers that say nothing of `sets` cannot read messages of version 3.
local is_new = (tonumber((decoded(ARGV[2]) or {}).version) or 1) >= 3
local alive, undecided = {[worker] = true, [ARGV[4]] = true, [new.by] = true}, 0
for i = 14, #ARGV do
  local name = string.sub(ARGV[i], #prefix + 1)
  local beat = name ~= worker and decoded(redis.call('GET', ARGV[i]))
  local facts = beat and type(beat.facts) == 'table' and beat.facts or {}  -- workers of an earlier version say nothing
  if beat and (type(facts.queue) ~= 'string' or facts.queue == queue) then
    alive[name] = true
    if type(facts.settings) == 'string' then alive[facts.settings] = true end
    -- It may be paused for good, or be of an earlier version and have failed other jobs in its own way.
    local may_never = type(facts.settings) ~= 'string' or type(facts.paused) == 'string'
    may_never = may_never or (is_new and type(facts.sets) ~= 'table')
    local has_refused = refused_by[name] or refused_by[facts.settings or '']
    if not has_refused and not (may_never and times > PATIENCE) then undecided = undecided + 1 end
  end
end
-- If another worker finished a job that this one had refused, wait for that worker, unless it has refused this job.
local refutation = access[new.kind] and decoded(redis.call('GET', ARGV[12] .. new.by))
local proven = refutation and type(refutation.by_worker) == 'string' and not alive[refutation.by_worker]
for _, refusal in ipairs(said) do proven = proven and refusal.worker ~= refutation.by_worker end
if forgiving or (proven and times <= PATIENCE) then undecided = undecided + 1 end

local dead = -KEPT
for _, refusal in ipairs(said) do if not alive[refusal.by] then dead = dead + 1 end end
local kept = {}
for _, refusal in ipairs(said) do
  if alive[refusal.by] or dead <= 0 then kept[#kept + 1] = refusal else dead = dead - 1 end
end
local text = cjson.encode(kept)
redis.call('HSET', KEYS[5], id, text)

local attempts = tonumber(parts[2])
if undecided == 0 or (refund == 0 and attempts >= max_attempts) then return {'final', '0', text} end
local seconds = math.min(first * 2 ^ math.min(times - 1, 30), longest)
if redis.call('SISMEMBER', KEYS[4], id) == 1 then seconds = 0 end  -- cancelled: the next start records that
delay(states, counts, KEYS[6], id, old, attempts - refund, seconds)
if new.kind == 'engine_set_not_held' then redis.pcall('SADD', KEYS[9], entry(states, id)) end
return {'delayed', tostring(seconds), text}
