-- Renews a lease. ARGV: 1 token, 2 its new end in ms, 3 now in ms.
-- Answer: nil when the token is not registered; else tokens whose leases have ended, and tokens and processes.
if not redis.call('ZSCORE', CONSUMERS, ARGV[1]) then
  return false
end
redis.call('ZADD', CONSUMERS, 'XX', ARGV[2], ARGV[1])
local ended = redis.call('ZRANGEBYSCORE', CONSUMERS, '-inf', ARGV[3], 'LIMIT', 0, 100)
return { ended, redis.call('HGETALL', PROCESSES) }
