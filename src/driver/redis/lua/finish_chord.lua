-- The chord is over. KEYS: .c, .j, .t, .s, .d, what is kept to look after it, those that are looked after.
-- ARGV: the claim, seconds to remember it ('0': for ever), the chord.
-- Answer: 1 when the claim was held.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
redis.call('ZREM', KEYS[7], ARGV[3])
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], 'done')
else
  redis.call('SET', KEYS[1], 'done', 'EX', ARGV[2])
end
return 1
