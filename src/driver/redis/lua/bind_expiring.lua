-- Binds a queue that expires. KEYS: binding, deadlines. ARGV: 1 member, 2 exchange, 3 ms for which the binding holds.
redis.call('SADD', KEYS[1], ARGV[1])
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', ms + tonumber(ARGV[3])), ARGV[2])
return 1
