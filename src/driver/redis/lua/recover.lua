-- Ends a consumer: all it holds goes back to the right ends, in the order in which it was claimed.
--
-- ARGV: 1 token, 2 how: expired (only if its lease has ended), gone, or close (nothing is counted), 3 now in ms,
-- 4 crashes allowed, 5 dead letters at most, 6 key prefix, 7 separator.
-- Answer: how many messages; -1 when there is nothing to end, since someone else was quicker.
local token, how, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local allowed, most, prefix, separator = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]

local lease = redis.call('ZSCORE', CONSUMERS, token)
if not lease or (how == 'expired' and tonumber(lease) > now) then
  return -1
end

local start, mine = token .. ':', {}
for _, tag in ipairs(redis.call('ZRANGE', INDEX, 0, -1)) do
  if string.sub(tag, 1, #start) == start then
    mine[#mine + 1] = { tonumber(string.match(tag, '^%d+', #start + 1)) or 0, tag }
  end
end
table.sort(mine, function(one, other) return one[1] > other[1] end)

local lists, order, tags = {}, {}, {}
for _, entry in ipairs(mine) do
  local tag = entry[2]
  local step, queue = place(tag)
  local element = step and element_of(tag, queue)
  tags[#tags + 1] = tag
  if element then
    local count, counted = 0, element
    if how ~= 'close' and redis.call('SISMEMBER', BEGUN, tag) == 1 then
      count, counted = crashed(element)
    end
    if count >= allowed then
      bury(queue, 'crashed', 'the process that ran it died ' .. count .. ' times', count, ARGV[3], most, counted)
    else
      local key = prefix .. queue .. ((step == '0' or step == '') and '' or separator .. step)
      if not lists[key] then
        lists[key] = {}
        order[#order + 1] = key
      end
      table.insert(lists[key], mark(counted))
    end
  end
end
for _, key in ipairs(order) do
  many('RPUSH', key, lists[key])
  if string.find(key, 'celeriac:heard:', #prefix + 1, true) == #prefix + 1 then
    redis.call('PEXPIRE', key, 3600000)
  end
end
many('SREM', BEGUN, tags)
many('ZREM', INDEX, tags)
many('HDEL', UNACKED, tags)
redis.call('ZREM', CONSUMERS, token)
redis.call('HDEL', PROCESSES, token)
return #tags
