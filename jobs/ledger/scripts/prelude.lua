-- Shared by all scripts: read a job's line in the ledger, and write one with its counters.
--
-- A line is one string in the hash `states`: `<state> <attempts>`, with ` <worker> <since>` while running. The same
-- script that moves a job keeps `counts`, so counting a batch is O(1).
--
-- A row that is submitted again with other parameters is a new job, and it supersedes the earlier one, whatever became
-- of that. The earlier job's line then reads `superseded <attempts> <state before>`; submitting the same parameters once
-- more brings it back.
--
-- A job that waits for its time is queued without a message: an entry of a sorted set stands for it, and its line reads
-- `queued <attempts> delayed`. Earlier versions read that as `queued <attempts>`; where one of them moves the job, the
-- line loses the mark, and the entry means nothing any more.
local function split(text)
  local parts = {}
  for part in string.gmatch(text, '%S+') do parts[#parts + 1] = part end
  return parts
end
local function move(states, counts, id, old, new)
  if old then redis.call('HINCRBY', counts, split(old)[1], -1) end
  redis.call('HINCRBY', counts, split(new)[1], 1)
  redis.call('HSET', states, id, new)
end
local terminal = {done = true, failed = true, cancelled = true, superseded = true}
-- A table from JSON that another program may have written; nil if it is not a table.
local function decoded(text)
  local is_json, value = pcall(cjson.decode, text or '')
  return is_json and type(value) == 'table' and value or nil
end
-- Count a done job (by 1), or a done job that is superseded (by -1), for the engine set that its result names. Workers of
-- an earlier version do not count, so there may be nothing to take away; a number below the true one is an answer, one
-- below zero is not.
local function count_engine_set(engine_sets, result, by)
  local fields = decoded(result)
  local digest = fields and fields.engine_set
  if type(digest) ~= 'string' or digest == '' then return end
  local name = type(fields.model_name) == 'string' and fields.model_name or ''
  local model = type(fields.model) == 'string' and fields.model or ''
  local field = digest .. ' ' .. name
  if model ~= '' or string.find(name, '\t', 1, true) then field = field .. '\t' .. model end
  if by > 0 or tonumber(redis.call('HGET', engine_sets, field) or '0') > 0 then
    redis.call('HINCRBY', engine_sets, field, by)
  end
end
local function now()  -- by Redis' own clock: those of workers may be wrong
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
-- The name of the batch whose lines are in the key `states`.
local function batch_of(states) return string.match(states, '^render:batch:(.*):states$') end
-- A job's entry among the delayed ones. `states` is the key of its batch's lines.
local function entry(states, id) return batch_of(states) .. ' ' .. id end
-- Queue a job without a message, for `seconds` from now on.
local function delay(states, counts, delayed, id, old, attempts, seconds)
  move(states, counts, id, old, 'queued ' .. attempts .. ' delayed')
  redis.call('ZADD', delayed, string.format('%.3f', now() + seconds), entry(states, id))
end
-- The attempts of a job that the ledger did not know and that is given back. One, so that its next start looks in storage
-- for a result, unless that attempt would be its only one.
local function adopted_attempts(max_attempts) return tonumber(max_attempts) > 1 and 1 or 0 end
-- Remove what a job leaves behind that ends or begins again.
local function forget_refusals(states, refusals, delayed, id)
  redis.call('HDEL', refusals, id)
  redis.call('ZREM', delayed, entry(states, id))
end
-- End a job that is not running if it is an earlier version of a corrected row: one that ran when the row was corrected, and
-- whose worker died or gave it back since. It has no result, and represents no row. `keys` has the keys of its batch by name.
-- Returns whether it was one.
local function end_if_replaced(keys, id, old)
  if redis.call('SREM', keys.replaced, id) == 0 then return false end
  redis.call('SREM', keys.cancels, id)
  redis.call('HDEL', keys.jobs, id)
  forget_refusals(keys.states, keys.refusals, keys.delayed, id)
  move(keys.states, keys.counts, id, old, 'superseded ' .. split(old)[2] .. ' queued')
  return true
end
-- Whether a batch was deleted and not submitted again since. A job of it that the ledger does not know stays unknown: its
-- message or its worker outlived the batch. In a ledger that was lost no batch counts as deleted.
local function is_deleted(states, batches, deleted)
  local batch = batch_of(states)
  return redis.call('ZSCORE', deleted, batch) and redis.call('HEXISTS', batches, batch) == 0
end
-- What a pattern captures of the value behind a key of a queue item; nil where the key is missing or the value differs.
local function value_behind(key, item, pattern)
  -- Near the end of what the producer and kombu write; anywhere in what others do. In a prompt, its quotes are escaped.
  local at = string.find(item, key, -600, true) or string.find(item, key, 1, true)
  return at and string.match(item, pattern, at + #key)
end
-- The job id of a queue item; nil where the item is not a message.
local function id_of(item)
  local id = value_behind('"correlation_id":', item, '^ ?"(%x+)"')
  return id and #id == 20 and id or nil
end
-- Whether a message is that of a job that has ended, of one of the batches whose lines are in KEYS from `first` on. It
-- is not needed: a retry writes a new one. With `any` '1', also of one that has not ended. If another program replaced the
-- hash of a batch's lines, its jobs are not known; that must not stop the work for other batches.
local function is_left_over(item, first, any)
  local id = id_of(item)
  for i = first, id and #KEYS or 0 do
    local line = redis.pcall('HGET', KEYS[i], id)
    if type(line) == 'string' then return any == '1' or terminal[split(line)[1] or ''] or false end
  end
  return false
end
-- The kinds that say what a worker may reach. A worker with another engine set, or more memory, refutes nothing.
local access = {source_forbidden = true, source_not_found = true, source_too_large = true, output_forbidden = true,
  output_full = true}
