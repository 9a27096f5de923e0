-- Removes bindings of queues that have expired. KEYS: deadlines. ARGV: 1 and 2 are what keys of bindings and of
-- permanent bindings begin with.
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', ms), 'LIMIT', 0, 100)
for _, exchange in ipairs(overdue) do
  if redis.call('EXISTS', ARGV[2] .. exchange) == 0 then
    redis.call('DEL', ARGV[1] .. exchange)
  end
  redis.call('ZREM', KEYS[1], exchange)
end
return #overdue
