-- Publishes a message if its call gets its key.
--
-- KEYS: the key. ARGV: 1 kind, 2 id, 3 token, 4 ms, 5 ms it may be put off; then what to do, as `lua/commit.lua` has it
-- without claims. Answer: that of `admit`.
local admitted = admit(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], '0', ARGV[5])
if admitted[1] ~= '0' then
  return admitted
end
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
  else
    redis.call('PEXPIRE', key, value)
  end
  at = at + 3
end
return admitted
