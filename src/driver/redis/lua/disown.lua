-- Gives back what a claim took whose answer was lost, as it was. Should that claim still be on its way, it finds that
-- its numbers are not valid any more.
--
-- ARGV: 1 token, 2 its first number, 3 the number behind its last, 4 key prefix, 5 separator.
local token, first, behind, prefix, separator = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local holder = redis.call('HGET', PROCESSES, token)
if not holder then
  return 0
end
local floor, process = string.match(holder, '^(%d+) (.*)$')
if tonumber(floor) < behind then
  redis.call('HSET', PROCESSES, token, ARGV[3] .. ' ' .. process)
end

local start, lost = token .. ':', {}
for _, tag in ipairs(redis.call('ZRANGE', INDEX, 0, -1)) do
  if string.sub(tag, 1, #start) == start then
    local number = tonumber(string.match(tag, '^%d+', #start + 1)) or 0
    if number >= first and number < behind then
      lost[#lost + 1] = { number, tag }
    end
  end
end
table.sort(lost, function(one, other) return one[1] > other[1] end)
for _, entry in ipairs(lost) do
  local tag = entry[2]
  local step, queue = place(tag)
  local element = element_of(tag, queue)
  if element then
    redis.call('RPUSH', prefix .. queue .. ((step == '0' or step == '') and '' or separator .. step), element)
  end
  redis.call('ZREM', INDEX, tag)
  redis.call('HDEL', UNACKED, tag)
end
return #lost
