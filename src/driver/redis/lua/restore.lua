-- Puts back a claim of kombu that is overdue. KEYS: unacked, its index, lists. ARGV: 1 tag, 2 overdue before (seconds),
-- 3 the element. Answer: 1 if it was still there.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or tonumber(score) > tonumber(ARGV[2]) then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
for at = 3, #KEYS do
  redis.call('RPUSH', KEYS[at], ARGV[3])
end
return 1
