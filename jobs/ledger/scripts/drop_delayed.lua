-- Remove the entries of a batch's delayed jobs that stand for no message any more: those of jobs that have ended, or that
-- the ledger does not know.
-- KEYS delayed states
-- ARGV 1 for the entries of all jobs, and job ids
-- Returns how many were removed.
local dropped = 0
for i = 2, #ARGV do
  local line = redis.pcall('HGET', KEYS[2], ARGV[i])
  if ARGV[1] == '1' or type(line) ~= 'string' or terminal[split(line)[1] or ''] then
    dropped = dropped + redis.call('ZREM', KEYS[1], entry(KEYS[2], ARGV[i]))
  end
end
return dropped
