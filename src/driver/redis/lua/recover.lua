-- Ends a consumer: all it holds goes back to the right ends, in the order in which it was claimed. What must not run
-- again, and what has crashed too often, goes to lists that only workers of ours take from: they end it.
--
-- ARGV: 1 token, 2 how: expired (only if its lease has ended), gone, or close (nothing is counted but for what must not run again), 3 now in ms,
-- 4 crashes allowed, 5 key prefix, 6 separator.
-- Answer: how many messages; -1 when there is nothing to end, since someone else was quicker.
local token, how, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local allowed, prefix, separator = tonumber(ARGV[4]), ARGV[5], ARGV[6]

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

local lists, order, tags, marks = {}, {}, {}, {}
for _, entry in ipairs(mine) do
  local tag = entry[2]
  local step, queue = place(tag)
  local element = step and element_of(tag, queue)
  tags[#tags + 1] = tag
  marks[#marks + 1] = tag
  marks[#marks + 1] = 'once:' .. tag
  if element then
    local count, counted = 0, element
    local lost = redis.call('SISMEMBER', BEGUN, 'once:' .. tag) == 1
    if lost or (how ~= 'close' and redis.call('SISMEMBER', BEGUN, tag) == 1) then
      count, counted = crashed(element)
      lost = lost or count >= allowed
    end
    local key = prefix .. queue .. ((step == '0' or step == '') and '' or separator .. step)
    if lost and not string.find(queue, '^celeriac:lost:') then
      key = prefix .. 'celeriac:lost:' .. queue
    end
    if not lists[key] then
      lists[key] = {}
      order[#order + 1] = key
    end
    table.insert(lists[key], mark(counted))
  end
end
for _, key in ipairs(order) do
  many('RPUSH', key, lists[key])
  if string.find(key, 'celeriac:heard:', #prefix + 1, true) then
    redis.call('PEXPIRE', key, 3600000)
  end
end
many('SREM', BEGUN, marks)
many('ZREM', INDEX, tags)
many('HDEL', UNACKED, tags)
redis.call('ZREM', CONSUMERS, token)
redis.call('HDEL', PROCESSES, token)
return #tags
