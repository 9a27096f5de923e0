-- Keeps a claim on the end of a chord, or takes it again when it has expired and nobody else has taken it.
-- KEYS: .c, .s. ARGV: the claim, milliseconds. Answer: 1 when it is held.
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] or (not held and redis.call('EXISTS', KEYS[2]) == 1) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
