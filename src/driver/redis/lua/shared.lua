-- What several scripts share. Their first keys are the same:
local UNACKED, INDEX, CONSUMERS, PROCESSES, BEGUN, DEAD, LETTERS, LETTER_ID =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]

-- A command with many arguments: `unpack` has a limit. An even number, since some come in pairs.
local function many(command, key, items)
  for first = 1, #items, 1000 do
    redis.call(command, key, unpack(items, first, math.min(first + 999, #items)))
  end
end

-- The last match of a pattern. Properties are at the end of an envelope, so that is looked at first.
local function last_from(text, pattern, base)
  local from, to
  local start, stop = string.find(text, pattern, base)
  while start do
    from, to = start, stop
    start, stop = string.find(text, pattern, stop + 1)
  end
  return from, to
end

local function last(text, pattern)
  local tail = math.max(1, #text - 4096)
  local from, to = last_from(text, pattern, tail)
  if not from and tail > 1 then
    from, to = last_from(text, pattern, 1)
  end
  return from, to
end

-- Puts a member first into the object whose brace is at `brace`.
local function insert(text, brace, member)
  local comma = string.find(text, '^%s*}', brace + 1) and '' or ', '
  return string.sub(text, 1, brace) .. member .. comma .. string.sub(text, brace + 1)
end

-- Marks an element as delivered before, where kombu does. No quote of a text within it is unescaped, so that the
-- pattern matches no text.
local function mark(element)
  local _, brace = last(element, '"delivery_info"%s*:%s*{')
  if not brace or string.find(element, '^"redelivered": true', brace + 1) then
    return element
  end
  return insert(element, brace, '"redelivered": true')
end

-- Counts a crash of an element: the count, and the element with it.
local function crashed(element)
  local from, to = last(element, '"celeriac_crashes"%s*:%s*%d+')
  if from then
    local count = tonumber(string.match(string.sub(element, from, to), '%d+$')) + 1
    return count, string.sub(element, 1, from - 1) .. '"celeriac_crashes": ' .. count .. string.sub(element, to + 1)
  end
  local _, brace = last(element, '"properties"%s*:%s*{')
  if brace then
    return 1, insert(element, brace, '"celeriac_crashes": 1')
  end
  local inner = string.match(element, '^(.*)}%s*$')
  return 1, inner .. ', "properties": {"celeriac_crashes": 1}}'
end

-- The crashes that an element has counted so far.
local function crashes(element)
  local from, to = last(element, '"celeriac_crashes"%s*:%s*%d+')
  return from and tonumber(string.match(string.sub(element, from, to), '%d+$')) or 0
end

-- Step and queue of a tag of ours.
local function place(tag)
  return string.match(tag, '^[^:]*:%d+:(%d*):(.*)$')
end

-- The element of a claim of ours, cut out of its value: `[<element>, "", "<queue>"]`.
local function element_of(tag, queue)
  local value = redis.call('HGET', UNACKED, tag)
  if not value then
    return nil
  end
  local ending = ', "", "' .. queue .. '"]'
  if string.sub(value, -#ending) == ending then
    return string.sub(value, 2, -#ending - 1)
  end
  -- The queue's name is escaped there.
  return string.match(value, '^%[(.*), "", ".-"%]$')
end

-- Keeps a dead letter; the oldest go when there are too many.
local function bury(queue, reason, detail, count, now, most, element)
  queue = string.match(queue, '^celeriac:lost:(.*)$') or queue
  -- What was heard for a queue lies in a list of its worker's own.
  queue = string.match(queue, '^celeriac:heard:[^:]*:(.*)$') or queue
  local id = redis.call('INCR', LETTER_ID)
  redis.call('ZADD', DEAD, id, id .. ':' .. queue)
  redis.call('HSET', LETTERS, id, table.concat({ reason, detail, count, now, element }, '\0'))
  local over = redis.call('ZCARD', DEAD) - most
  if over > 0 then
    for _, member in ipairs(redis.call('ZRANGE', DEAD, 0, over - 1)) do
      redis.call('HDEL', LETTERS, string.match(member, '^%d+'))
      redis.call('ZREM', DEAD, member)
    end
  end
end
