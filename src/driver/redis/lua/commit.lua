-- Commits a batch: publications and results of claims that are still held, or of none; then the settlements.
--
-- ARGV: 1 now in ms, 2 crashes allowed, 3 dead letters at most, 4 key prefix, 5 separator, 6 kinds (a letter for each
-- claim, a capital for one that is marked as begun), 7 where the extras begin, 8 our database, 9 that of the results;
-- then the tags, operations, extras.
-- Answer: a digit for each claim: 0 stale, 1 done, 2 dead.
local now, allowed, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local prefix, separator, kinds = ARGV[4], ARGV[5], ARGV[6]
local claims = #kinds
local FIXED = 9

-- Nothing but acknowledgements: what is removed was held. A claim is in both keys or in neither.
local extras = tonumber(ARGV[7])
if extras == FIXED + claims + 1 and not string.find(kinds, '[^a]') then
  local removed = 0
  for start = 1, claims, 1000 do
    removed = removed + redis.call('ZREM', INDEX, unpack(ARGV, FIXED + start, FIXED + math.min(start + 999, claims)))
  end
  if removed == claims then
    for start = 1, claims, 1000 do
      redis.call('HDEL', UNACKED, unpack(ARGV, FIXED + start, FIXED + math.min(start + 999, claims)))
    end
    return string.rep('1', claims)
  end
  local answer = {}
  for claim = 1, claims do
    answer[claim] = redis.call('HDEL', UNACKED, ARGV[FIXED + claim])
  end
  return table.concat(answer)
end

-- Mostly all claims are acknowledged with a result each, and all are held: then little is left to be looked at.
local first = FIXED + claims + 1
local each = not string.find(kinds, '[^a]') and ARGV[first] == 's' and ARGV[first + 1] == '1'
  and tonumber(ARGV[first + 3]) == claims and extras == first + 4 + 2 * claims
if each then
  for start = 1, claims, 1000 do
    local stop = math.min(start + 999, claims)
    local scores = redis.call('ZMSCORE', INDEX, unpack(ARGV, FIXED + start, FIXED + stop))
    for at = 1, stop - start + 1 do
      each = each and scores[at]
    end
  end
end
if each then
  local keys, ttls, bodies, ttl, at = {}, {}, {}, ARGV[first + 2], first + 4
  for claim = 1, claims do
    keys[claim], ttls[claim], bodies[claim] = ARGV[at], ttl, ARGV[at + 1]
    at = at + 2
  end
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[9]) end
  store_results(keys, ttls, bodies)
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[8]) end
  for start = 1, claims, 1000 do
    local stop = math.min(start + 999, claims)
    redis.call('ZREM', INDEX, unpack(ARGV, FIXED + start, FIXED + stop))
    redis.call('HDEL', UNACKED, unpack(ARGV, FIXED + start, FIXED + stop))
  end
  return string.rep('1', claims)
end

local function list_key(queue, step)
  return prefix .. queue .. ((step == '0' or step == '') and '' or separator .. step)
end

local held = {}
for start = 1, claims, 1000 do
  local stop = math.min(start + 999, claims)
  local scores = redis.call('ZMSCORE', INDEX, unpack(ARGV, FIXED + start, FIXED + stop))
  for at = start, stop do
    held[at] = scores[at - start + 1]
  end
end

-- Elements that go to one end of one list go together.
local function pushes(command)
  local lists, order = {}, {}
  local function push(key, element)
    if not lists[key] then
      lists[key] = {}
      order[#order + 1] = key
    end
    table.insert(lists[key], element)
  end
  local function flush()
    for _, key in ipairs(order) do
      many(command, key, lists[key])
    end
  end
  return push, flush
end

local push_left, flush_left = pushes('LPUSH')
local push_right, flush_right = pushes('RPUSH')

-- Operations: a letter, the number of the claim (0: none), and what it needs.
local expiring, keys, ttls, bodies, stored, retained = {}, {}, {}, {}, 0, {}
local at = FIXED + claims + 1
while at < extras do
  local kind, claim = ARGV[at], tonumber(ARGV[at + 1])
  local live = claim == 0 or held[claim]
  if kind == 'l' then
    if live then push_left(ARGV[at + 2], ARGV[at + 3]) end
    at = at + 4
  elseif kind == 'z' then
    if live then redis.call('ZADD', ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]) end
    at = at + 5
  elseif kind == 'f' then
    if live then redis.call('PUBLISH', ARGV[at + 2], ARGV[at + 3]) end
    at = at + 4
  elseif kind == 'e' then
    if live then redis.call('XADD', ARGV[at + 2], 'MAXLEN', '~', ARGV[at + 3], '*', 'e', ARGV[at + 4]) end
    at = at + 5
  elseif kind == 'x' then
    if live then expiring[ARGV[at + 2]] = ARGV[at + 3] end
    at = at + 4
  elseif kind == 't' then
    if live then retained[#retained + 1] = at + 2 end
    at = at + 8
  elseif kind == 'u' then
    -- A key that the message was sent under.
    if live and redis.call('HGET', ARGV[at + 2], 'token') == ARGV[at + 3] then redis.call('DEL', ARGV[at + 2]) end
    at = at + 4
  else
    -- Results of claims in a row, or of no claims: how long they are kept, how many, keys and records.
    local ttl, count, step = ARGV[at + 2], tonumber(ARGV[at + 3]), claim == 0 and 0 or 1
    at = at + 4
    for _ = 1, count do
      if claim == 0 or held[claim] then
        stored = stored + 1
        keys[stored], ttls[stored], bodies[stored] = ARGV[at], ttl, ARGV[at + 1]
      end
      claim, at = claim + step, at + 2
    end
  end
end
if stored > 0 then
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[9]) end
  store_results(keys, ttls, bodies)
  for _, from in ipairs(retained) do
    retain_result(from)
  end
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[8]) end
end

local settled, begun, unmarked = {}, {}, {}
local sub, lower = string.sub, string.lower
local answer = {}
at = extras
for claim = 1, claims do
  local letter = sub(kinds, claim, claim)
  local kind = lower(letter)
  local tag = ARGV[FIXED + claim]
  local reason, detail, due
  if kind == 'd' then
    reason, detail, at = ARGV[at], ARGV[at + 1], at + 2
  elseif kind == 'p' then
    due, at = tonumber(ARGV[at]), at + 1
  end
  if not held[claim] then
    answer[claim] = '0'
  elseif kind == 'k' then
    answer[claim] = '1'
  elseif kind == 'b' then
    begun[#begun + 1] = tag
    answer[claim] = '1'
  elseif kind == 'o' then
    begun[#begun + 1] = tag
    begun[#begun + 1] = 'once:' .. tag
    redis.call('ZADD', INDEX, 'XX', '+inf', tag)
    answer[claim] = '1'
  else
    answer[claim] = '1'
    settled[#settled + 1] = tag
    if letter ~= kind then
      unmarked[#unmarked + 1] = tag
      unmarked[#unmarked + 1] = 'once:' .. tag
    end
    if kind ~= 'a' then
      local step, queue = place(tag)
      local element = element_of(tag, queue)
      if not element then
        answer[claim] = '0'
      elseif kind == 'q' then
        push_left(list_key(queue, step), mark(element))
      elseif kind == 'r' then
        push_right(list_key(queue, step), mark(element))
      elseif kind == 'p' then
        if due > now then
          redis.call('ZADD', prefix .. 'celeriac:parked:' .. queue, due, step .. ':' .. element)
        else
          push_right(list_key(queue, step), element)
        end
      elseif kind == 'd' then
        bury(queue, reason, detail, crashes(element), ARGV[1], most, element)
      elseif kind == 'c' then
        local count, counted = crashed(element)
        if count >= allowed then
          bury(queue, 'crashed', 'the process that ran it died ' .. count .. ' times', count, ARGV[1], most, counted)
          answer[claim] = '2'
        else
          push_right(list_key(queue, step), mark(counted))
        end
      end
    end
  end
end
flush_left()
flush_right()
for key, ms in pairs(expiring) do
  redis.call('PEXPIRE', key, ms)
end
many('SADD', BEGUN, begun)
many('SREM', BEGUN, unmarked)
many('ZREM', INDEX, settled)
many('HDEL', UNACKED, settled)
return table.concat(answer)
