-- Claims: brings back what is due, takes up to `count` elements from the right ends, registers them.
--
-- KEYS: the shared ones; the parked set of each queue; the lists, step by step, in each step queue by queue.
-- ARGV: 1 token, 2 now in ms, 3 now in seconds, 4 first number, 5 count, 6 bytes, 7 queues, 8 steps, 9 fair or fixed,
-- 10 dead letters at most; then names of the queues, their names in JSON, the steps.
-- Answer: nil when the token is not registered; 0 when the numbers were disowned meanwhile; else the next due moment, the next end of another's lease, its token,
-- and for each element the number of its list (from 0) and the element.
local token, now, score = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local first, left, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local queues, steps = tonumber(ARGV[7]), tonumber(ARGV[8])
local fair = ARGV[9] == 'fair'
local FIXED = 10

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

local parked_keys = {}
for queue = 1, queues do
  parked_keys[queue] = KEYS[8 + queue]
end
if queues == 1 or redis.call('EXISTS', unpack(parked_keys)) > 0 then
  for queue = 1, queues do
    unpark(queue)
  end
end

local number, full = first, false
local scores, values, answer, drained = {}, {}, {}, {}

local function register(step, queue, element)
  local tag = token .. ':' .. number .. ':' .. ARGV[FIXED + 2 * queues + step] .. ':' .. ARGV[FIXED + queue]
  scores[#scores + 1] = score
  scores[#scores + 1] = tag
  values[#values + 1] = tag
  values[#values + 1] = '[' .. element .. ', "", ' .. ARGV[FIXED + queues + queue] .. ']'
  answer[#answer + 1] = tostring((step - 1) * queues + queue - 1)
  answer[#answer + 1] = element
  number = number + 1
  left = left - 1
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
    for at, element in ipairs(got) do
      local brace = string.byte(element, 1) == 123 and string.byte(element, -1) == 125
      if not brace and not (string.find(element, '^%s*{') and string.find(element, '}%s*$')) then
        bury(ARGV[FIXED + queue], 'malformed', 'envelope: not a JSON object', 0, ARGV[2], tonumber(ARGV[10]), element)
      elseif #element > bytes and number > first then
        put_back(key, got, at)
        return
      else
        bytes = bytes - #element
        share = share - 1
        register(step, queue, element)
      end
    end
    if #got < wanted then
      drained[queue] = true
      return
    end
  end
end

for step = 1, steps do
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

local ends = redis.call('ZRANGE', CONSUMERS, 0, 1, 'WITHSCORES')
local other = ends[1] == token and 3 or 1
table.insert(answer, 1, due_next and string.format('%.0f', due_next) or '')
table.insert(answer, 2, ends[other + 1] or '')
table.insert(answer, 3, ends[other] or '')
return answer
