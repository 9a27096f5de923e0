-- Registers a consumer. ARGV: 1 token, 2 end of its lease in ms, 3 its process.
-- Answer: tokens and, for each, the lowest number that it may still claim with, a blank, its process.
redis.call('ZADD', CONSUMERS, ARGV[2], ARGV[1])
redis.call('HSET', PROCESSES, ARGV[1], '0 ' .. ARGV[3])
return redis.call('HGETALL', PROCESSES)
