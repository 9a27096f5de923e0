-- Moves parked messages of a queue behind all else in their lists, the earliest first.
--
-- KEYS: the parked set; the lists, in the order of the steps. ARGV: 1 how many at most; then the steps.
-- Answer: how many.
local members = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
local lists = {}
for at = 2, #ARGV do
  lists[ARGV[at]] = KEYS[at]
end
for _, member in ipairs(members) do
  local step, element = string.match(member, '^(%d*):(.*)$')
  redis.call('LPUSH', lists[step] or KEYS[2], element)
end
if #members > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #members - 1)
end
return #members
