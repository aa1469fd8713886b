-- Delayed jobs whose time has come, the longest overdue first.
-- KEYS delayed
-- ARGV how many at most
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now()), 'LIMIT', 0, ARGV[1])
