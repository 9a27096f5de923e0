-- Keeps limits of all workers; `src/driver/limits.rs` says by what rules.
--
-- KEYS: 1 holders (a sorted set by the end of their leases); then for each place its state, its log, its line.
-- The state is a hash: used (starts in the log), next (when the next start is not too close), out (turns that are out), open
-- (those that have not begun), full (someone waits for the bell), p:<holder>|<token> (a turn: its entry in the log, or
-- nothing when it has begun), c:<entry> (starts of an entry). The log is a sorted set of entries, the line one of ids.
-- ARGV: 1 everything that is said and asked, as JSON. A use of a limit is {place, count, window in ms, most}; 0 is none.
-- Answer: for each line {how many before, whether again}, then for each ask {turns, why not more, ms, how many in line}.
local call = redis.call
local asked = cjson.decode(ARGV[1])
local FREE, ENOUGH, FOR, FULL = 0, 1, 2, 3
local now = asked.now
if now < 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local front = 'p:' .. asked.holder .. '|'
local places, freed, alive = {}, {}, {}

local function text(number)
  return string.format('%.0f', number)
end

local function open(number)
  local place = places[number]
  if not place then
    local first = number * 3 - 1
    place = { name = asked.places[number], state = KEYS[first], log = KEYS[first + 1], line = KEYS[first + 2] }
    local kept = call('HMGET', place.state, 'used', 'next', 'out', 'open', 'full')
    for at, field in ipairs({ 'used', 'next', 'out', 'open', 'full' }) do
      place[field] = tonumber(kept[at] or 0) or 0
    end
    places[number] = place
  end
  return place
end

-- Which entry of the log a moment belongs to: rounded up.
local function entry(use, moment)
  local step = 1
  if use[2] > asked.entries then
    step = math.max(1, math.floor(use[3] / asked.entries))
  end
  return text(math.floor((moment + step) / step) * step)
end

local function add(place, at)
  if call('HINCRBY', place.state, 'c:' .. at, 1) == 1 then
    call('ZADD', place.log, at, at)
  end
  place.used = place.used + 1
end

local function drop(place, at)
  local count = tonumber(call('HGET', place.state, 'c:' .. at) or 0)
  if count > 1 then
    call('HSET', place.state, 'c:' .. at, count - 1)
  elseif count == 1 then
    call('HDEL', place.state, 'c:' .. at)
    call('ZREM', place.log, at)
  else
    return
  end
  place.used = place.used - 1
end

local function move(place, from, to)
  local before = place.used
  drop(place, from)
  if place.used < before then
    add(place, to)
  end
end

local function turns_of(place)
  local found, all = {}, call('HGETALL', place.state)
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 2) == 'p:' then
      found[all[at]] = all[at + 1]
    end
  end
  return found
end

-- Takes back the turns of holders that are gone. Those that had not begun, as far as is known, may have.
local function reap(place, use)
  for field, granted in pairs(turns_of(place)) do
    local holder = string.match(field, '^p:(.*)|[^|]*$')
    if alive[holder] == nil then
      alive[holder] = (tonumber(call('ZSCORE', KEYS[1], holder) or 0) or 0) > now
    end
    if not alive[holder] then
      call('HDEL', place.state, field)
      place.out = place.out - 1
      if granted ~= '' then
        place.open = place.open - 1
        move(place, granted, entry(use, now))
      end
    end
  end
end

-- Forgets starts that no window from now on can have. What has a turn and has not begun stays.
local function forget_old(place, use)
  local old = now - use[3]
  local gone = call('ZRANGEBYSCORE', place.log, '-inf', old)
  if #gone > 0 and place.open > 0 then
    reap(place, use)
    local at = entry(use, now)
    for field, granted in pairs(turns_of(place)) do
      if granted ~= '' and tonumber(granted) <= old then
        move(place, granted, at)
        call('HSET', place.state, field, at)
      end
    end
    gone = call('ZRANGEBYSCORE', place.log, '-inf', old)
  end
  for _, at in ipairs(gone) do
    place.used = place.used - tonumber(call('HGET', place.state, 'c:' .. at) or 0)
    call('HDEL', place.state, 'c:' .. at)
  end
  if #gone > 0 then
    call('ZREMRANGEBYSCORE', place.log, '-inf', old)
  end
end

local function blocked_by(use)
  local place = open(use[1])
  if use[2] > 0 then
    forget_old(place, use)
    if place.used >= use[2] then
      local first = call('ZRANGE', place.log, 0, 0)[1]
      return FOR, math.max(1, tonumber(first or text(now)) + use[3] - now)
    end
    if place.next > now then
      return FOR, math.max(1, math.ceil(place.next - now))
    end
  end
  if use[4] > 0 then
    if place.out >= use[4] then
      reap(place, use)
    end
    if place.out >= use[4] then
      place.full = 1
      return FULL, 0
    end
  end
  return nil, 0
end

local function blocked(uses)
  for _, use in ipairs(uses) do
    local why, ms = blocked_by(use)
    if why then
      return why, ms
    end
  end
  return nil, 0
end

local left = asked.most
local function take(uses, token)
  local field = front .. token
  if call('HEXISTS', open(uses[1][1]).state, field) == 1 then
    return nil, 0
  end
  if left == 0 then
    return ENOUGH, 0
  end
  local why, ms = blocked(uses)
  if why then
    return why, ms
  end
  left = left - 1
  for _, use in ipairs(uses) do
    local place, at = open(use[1]), entry(use, now)
    if use[2] > 0 then
      add(place, at)
      local gap = asked.closer * use[3] / use[2]
      local late = math.min(math.max(gap / 2, asked.late[1]), asked.late[2])
      place.next = math.max(place.next, now - late) + gap
    end
    call('HSET', place.state, field, at)
    place.out, place.open = place.out + 1, place.open + 1
  end
  return nil, 0
end

local function hear(told)
  local field = front .. told.token
  for _, use in ipairs(told.uses) do
    local place = open(use[1])
    local granted = call('HGET', place.state, field)
    if granted then
      if granted ~= '' and told.began >= 0 then
        move(place, granted, entry(use, now - told.began))
        call('HSET', place.state, field, '')
        place.open = place.open - 1
      elseif granted ~= '' and told.ended then
        drop(place, granted)
        place.open = place.open - 1
      end
      if told.ended or (use[4] == 0 and told.began >= 0) then
        call('HDEL', place.state, field)
        place.out = place.out - 1
        if place.full == 1 then
          place.full = 0
          freed[place.name] = true
        end
      end
    end
  end
end

call('ZADD', KEYS[1], now + asked.lease, asked.holder)
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - asked.kept)
for _, told in ipairs(asked.told) do
  hear(told)
end
for _, number in ipairs(asked.cleared) do
  call('DEL', open(number).line)
end
local answer = {}
for _, line in ipairs(asked.lines) do
  local place = open(line[1])
  local rank, again = call('ZRANK', place.line, line[2]), 1
  if not rank then
    local last = call('ZREVRANGE', place.line, 0, 0, 'WITHSCORES')[2]
    call('ZADD', place.line, (tonumber(last or 0) or 0) + 1, line[2])
    rank, again = call('ZCARD', place.line) - 1, 0
  end
  answer[#answer + 1] = rank
  answer[#answer + 1] = again
end
for _, ask in ipairs(asked.asks) do
  local turns, why, ms = 0, nil, 0
  local line = open(ask.uses[1][1]).line
  for _, request in ipairs(ask.requests) do
    why, ms = take(ask.uses, request[1])
    if why then
      break
    end
    turns = turns + 1
    call('ZREM', line, request[2])
  end
  if not why then
    why, ms = blocked(ask.uses)
  end
  answer[#answer + 1] = turns
  answer[#answer + 1] = why or FREE
  answer[#answer + 1] = math.ceil(ms)
  answer[#answer + 1] = call('ZCARD', line)
end
if asked.leaves then
  call('ZREM', KEYS[1], asked.holder)
end
for _, place in pairs(places) do
  call('HSET', place.state, 'used', place.used, 'next', string.format('%.3f', place.next), 'out', place.out,
    'open', place.open, 'full', place.full)
  local ttl = place.out > 0 and asked.longest or asked.kept
  call('PEXPIRE', place.state, ttl)
  call('PEXPIRE', place.log, ttl)
  call('PEXPIRE', place.line, asked.kept)
end
for name in pairs(freed) do
  call('PUBLISH', asked.channel, name)
end
return answer
