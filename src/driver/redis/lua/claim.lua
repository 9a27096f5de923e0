-- Claims: brings back what is due, takes up to `count` elements from the right ends, registers them.
--
-- KEYS: the shared ones; the parked set of each queue; the lists, step by step, in each step queue by queue; then as
-- another step the lists of what is only to be ended.
-- ARGV: 1 token, 2 now in ms, 3 now in seconds, 4 first number, 5 count, 6 bytes, 7 queues, 8 steps, 9 fair or fixed,
-- 10 dead letters at most, 11 whether to look at leases; then names of the queues, their names in JSON, the steps.
-- Answer: nil when the token is not registered; 0 when the numbers were disowned meanwhile; else the next due moment,
-- the next end of another's lease, its token, what was buried, and in turns the number of a list (from 0) and elements of it.
local token, now, score = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local first, left, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local queues, steps = tonumber(ARGV[7]), tonumber(ARGV[8])
local LOST = steps + 1
local fair = ARGV[9] == 'fair'
local FIXED = 11
local byte, format = string.byte, string.format

local holder = redis.call('HGET', PROCESSES, token)
if not holder then
  return false
end
if first < tonumber(string.match(holder, '^%d+')) then
  return 0
end

local function list_key(step, queue)
  return KEYS[8 + queues + (step - 1) * queues + queue]
end

local due_next
local function unpark(queue)
  local parked = KEYS[8 + queue]
  local head = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
  if head[2] and tonumber(head[2]) <= now then
    local due = redis.call('ZRANGEBYSCORE', parked, '-inf', ARGV[2], 'LIMIT', 0, 500)
    local number = {}
    for step = 1, steps do
      number[ARGV[FIXED + 2 * queues + step]] = step
    end
    -- The earliest goes in last, since it is next to be taken.
    for at = #due, 1, -1 do
      local step, element = string.match(due[at], '^(%d*):(.*)$')
      redis.call('RPUSH', list_key(number[step] or 1, queue), element)
    end
    many('ZREM', parked, due)
    head = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
  end
  if head[2] and (not due_next or tonumber(head[2]) < due_next) then
    due_next = tonumber(head[2])
  end
end

-- Mostly there is nothing but in the lists of the first step, which one command tells.
local others = {}
for at = 1, queues do
  others[at] = KEYS[8 + at]
end
for at = 8 + 2 * queues + 1, #KEYS do
  others[#others + 1] = KEYS[at]
end
local steps_used = 1
if #others > 0 and redis.call('EXISTS', unpack(others)) > 0 then
  steps_used = LOST
  for queue = 1, queues do
    unpark(queue)
  end
end

local number, full = first, false
local scores, values, answer, drained = {}, {}, { '', '', '', '' }, {}
local places = 0

-- Elements of one list that are fit to be claimed.
local function register(step, queue, elements)
  if #elements == 0 then return end
  local head = token .. ':'
  local tail = step == LOST and ':0:celeriac:lost:' .. ARGV[FIXED + queue]
    or ':' .. ARGV[FIXED + 2 * queues + step] .. ':' .. ARGV[FIXED + queue]
  local name = ARGV[FIXED + queues + queue]
  local ending = ', "", ' .. (step == LOST and '"celeriac:lost:' .. string.sub(name, 2) or name) .. ']'
  for at = 1, #elements do
    local tag = head .. format('%d', number) .. tail
    scores[places + 1] = score
    scores[places + 2] = tag
    values[places + 1] = tag
    values[places + 2] = '[' .. elements[at] .. ending
    places = places + 2
    number = number + 1
  end
  answer[#answer + 1] = format('%d', (step - 1) * queues + queue - 1)
  answer[#answer + 1] = elements
  left = left - #elements
end

-- What is too much goes back as it was.
local function put_back(key, got, from)
  local back = {}
  for at = #got, from, -1 do
    back[#back + 1] = got[at]
  end
  many('RPUSH', key, back)
  full = true
end

local buried = {}
local function take(step, queue, share)
  local key = list_key(step, queue)
  while share > 0 and not full do
    if bytes <= 0 then
      full = true
      return
    end
    -- A first guess of 16 kB keeps what has to go back small.
    local wanted = math.min(share, math.max(1, math.floor(bytes / 16384)))
    local got = redis.call('RPOP', key, wanted)
    if not got then
      drained[queue] = true
      return
    end
    local fit, first_here = {}, number == first
    for at = 1, #got do
      local element = got[at]
      local brace = byte(element, 1) == 123 and byte(element, -1) == 125
      if not brace and not (string.find(element, '^%s*{') and string.find(element, '}%s*$')) then
        bury(ARGV[FIXED + queue], 'malformed', 'envelope: not a JSON object', 0, ARGV[2], tonumber(ARGV[10]), element)
        buried[#buried + 1] = ARGV[FIXED + queue]
      elseif #element > bytes and not (first_here and #fit == 0) then
        put_back(key, got, at)
        register(step, queue, fit)
        return
      else
        bytes = bytes - #element
        fit[#fit + 1] = element
      end
    end
    -- What is buried counts too: a list full of it must not make this script long.
    share = share - #got
    register(step, queue, fit)
    if #got < wanted then
      drained[queue] = true
      return
    end
  end
end

for step = 1, steps_used do
  drained = {}
  for queue = 1, queues do
    if left > 0 and not full then
      take(step, queue, fair and math.ceil(left / (queues - queue + 1)) or left)
    end
  end
  for queue = 1, queues do
    if left > 0 and not full and not drained[queue] then
      take(step, queue, left)
    end
  end
end
if number > first then
  many('ZADD', INDEX, scores)
  many('HSET', UNACKED, values)
end

if ARGV[11] == '1' then
  local ends = redis.call('ZRANGE', CONSUMERS, 0, 1, 'WITHSCORES')
  local other = ends[1] == token and 3 or 1
  answer[2] = ends[other + 1] or ''
  answer[3] = ends[other] or ''
end
if buried[1] then
  answer[4] = format('%d of queue %s', #buried, buried[1])
end
if due_next then
  answer[1] = format('%.0f', due_next)
end
return answer
