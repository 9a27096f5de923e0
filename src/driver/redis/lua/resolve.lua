-- Takes dead letters out, and publishes what is to be in their place.
--
-- ARGV: for each letter its number, how many arguments follow for it, and these: operations as `lua/fire.lua` has them.
-- Answer: the numbers of those that were there.
local taken = {}
local at = 1
while at <= #ARGV do
  local id, stop = ARGV[at], at + 2 + tonumber(ARGV[at + 1])
  at = at + 2
  if redis.call('HDEL', LETTERS, id) == 1 then
    taken[#taken + 1] = id
    redis.call('ZREMRANGEBYSCORE', DEAD, id, id)
    while at < stop do
      local kind, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
      if kind == 'l' then
        redis.call('LPUSH', key, value)
      elseif kind == 'z' then
        redis.call('ZADD', key, value, ARGV[at + 3])
        at = at + 1
      elseif kind == 'f' then
        redis.call('PUBLISH', key, value)
      else
        redis.call('PEXPIRE', key, value)
      end
      at = at + 3
    end
  end
  at = stop
end
return taken
