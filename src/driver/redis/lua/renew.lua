-- Renews a lease. ARGV: 1 token, 2 its new end in ms, 3 now in ms, 4 now in seconds; then tags whose claims are to look
-- as if they had been made now, to consumers of kombu.
-- Answer: nil when the token is not registered; else tokens whose leases have ended, and tokens and processes.
if not redis.call('ZSCORE', CONSUMERS, ARGV[1]) then
  return false
end
redis.call('ZADD', CONSUMERS, 'XX', ARGV[2], ARGV[1])
local scores = {}
for at = 5, #ARGV do
  scores[#scores + 1] = ARGV[4]
  scores[#scores + 1] = ARGV[at]
end
for first = 1, #scores, 1000 do
  redis.call('ZADD', INDEX, 'XX', unpack(scores, first, math.min(first + 999, #scores)))
end
local ended = redis.call('ZRANGEBYSCORE', CONSUMERS, '-inf', ARGV[3], 'LIMIT', 0, 100)
return { ended, redis.call('HGETALL', PROCESSES) }
