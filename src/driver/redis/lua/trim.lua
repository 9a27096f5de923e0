-- Removes dead letters beyond the limits, the oldest first. ARGV: 1 how many are kept, or nothing; 2 the moment in ms
-- before which they are too old, or nothing; 3 how many may be removed in this step. Answer: how many were.
local most, too_old, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local removed = 0
local function drop(member)
  redis.call('HDEL', LETTERS, string.match(member, '^%d+'))
  redis.call('ZREM', DEAD, member)
  removed = removed + 1
end
local over = most and math.min(redis.call('ZCARD', DEAD) - most, left) or 0
if over > 0 then
  for _, member in ipairs(redis.call('ZRANGE', DEAD, 0, over - 1)) do
    drop(member)
  end
end
while too_old and removed < left do
  local member = redis.call('ZRANGE', DEAD, 0, 0)[1]
  local letter = member and redis.call('HGET', LETTERS, string.match(member, '^%d+'))
  local died = letter and tonumber(string.match(letter, '^[^%z]*%z[^%z]*%z[^%z]*%z(%d+)%z'))
  if not member or (died and died >= too_old) then
    break
  end
  drop(member)
end
return removed
