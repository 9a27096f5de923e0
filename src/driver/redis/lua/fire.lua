-- Sends a due moment of a periodic task, at most once.
--
-- KEYS: 1 the lease, 2 the last moments. ARGV: 1 holder, 2 ms for which the lease is held, 3 entry, 4 the moment,
-- 5 state; then what to do, as `lua/commit.lua` has it without claims. Answer: 0 sent, 1 already, 2 not the holder.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 2
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local last = redis.call('HGET', KEYS[2], ARGV[3])
if last and tonumber(string.match(last, '^%-?%d+')) >= tonumber(ARGV[4]) then
  return 1
end
-- Noted first: a server that is out of memory refuses here, when nothing has been sent yet.
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4] .. ' ' .. ARGV[5])
local at = 6
while at <= #ARGV do
  local kind, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if kind == 'l' then
    redis.call('LPUSH', key, value)
  elseif kind == 'z' then
    redis.call('ZADD', key, value, ARGV[at + 3])
    at = at + 1
  elseif kind == 'f' then
    redis.call('PUBLISH', key, value)
  elseif kind == 'e' then
    redis.call('XADD', key, 'MAXLEN', '~', value, '*', 'e', ARGV[at + 3])
    at = at + 1
  else
    redis.call('PEXPIRE', key, value)
  end
  at = at + 3
end
return 0
