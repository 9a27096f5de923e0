-- The rules of keys that calls take (src/keys.rs), as src/driver/keys.rs has them for other stores.
--
-- A key is a hash: `id` (what calls get), `token` (who holds it; of a debounced key the call whose message is to be run, or
-- nothing), `pending` (reserved until then, and not known to be published), `lapsed` (tokens of reservations that were taken
-- over), `limit` (debounced: when the last message may be due at the latest), `closed` (debounced: the message has come),
-- `before` and `last` (debounced: id and last token of the time before). It expires when it is free whatever happened.
local function now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function put(key, ttl, fields)
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(fields))
  redis.call('PEXPIRE', key, ttl)
end

-- A call wants a key. `kind`: 'h' hold, 'd' debounce. `pending`: ms, or '0' where the message is published in the same step.
-- `longest`: ms, or '0'. Answer: 0 new, 1 another's (with its id and limit), 2 reserved by another, 3 ours already.
local function admit(key, kind, id, token, ttl, pending, longest)
  local now = now_ms()
  local published = pending == '0'
  local old = redis.call('HMGET', key, 'id', 'token', 'pending', 'lapsed', 'limit', 'closed')
  if kind == 'd' then
    if old[1] and not old[6] then
      if old[1] ~= id then
        return {'1', old[1], old[5] or ''}
      end
      if old[2] == token then
        return {'3', id, ''}
      end
      if published then
        redis.call('HSET', key, 'token', token)
      end
      redis.call('PEXPIRE', key, ttl)
      return {'0', id, ''}
    end
    local fields = {'id', id, 'token', published and token or '', 'before', old[1] or '', 'last', old[2] or ''}
    if longest ~= '0' then
      fields[9], fields[10] = 'limit', whole(now + tonumber(longest))
    end
    put(key, ttl, fields)
    return {'0', id, ''}
  end
  local lapsed = ''
  if old[2] then
    if old[2] == token then
      return {'3', id, ''}
    end
    if not old[3] then
      return {'1', old[1] or '', ''}
    end
    if tonumber(old[3]) > now then
      return {'2', old[1] or '', ''}
    end
    lapsed = string.sub(old[2] .. ' ' .. (old[4] or ''), 1, 400)
  end
  local fields = {'id', id, 'token', token}
  if not published then
    fields[5], fields[6] = 'pending', whole(now + tonumber(pending))
  end
  if lapsed ~= '' then
    fields[#fields + 1] = 'lapsed'
    fields[#fields + 1] = lapsed
  end
  put(key, ttl, fields)
  return {'0', id, ''}
end

-- The message of a reservation is published.
local function confirm(key, kind, id, token, ttl)
  local old = redis.call('HMGET', key, 'id', 'token', 'before')
  if not old[1] and not old[2] then
    return {'0', id, ''}
  end
  if kind == 'd' then
    if old[1] == id then
      -- Should the one before have come meanwhile, both are run.
      redis.call('HSET', key, 'token', token)
      redis.call('HDEL', key, 'closed')
    elseif old[3] == id then
      redis.call('HSET', key, 'last', token)
    end
    return {'0', id, ''}
  end
  if old[2] ~= token then
    return {'1', old[1] or '', ''}
  end
  redis.call('HDEL', key, 'pending')
  redis.call('PEXPIRE', key, ttl)
  return {'0', id, ''}
end

-- Takes a lock, or the turn of those of which one runs at a time.
local function take(key, id, token, ttl)
  local holder = redis.call('HGET', key, 'token')
  if holder and holder ~= token then
    return false
  end
  put(key, ttl, {'id', id, 'token', token})
  return true
end

-- A message comes that was sent under a key. Answer: 0 run, 1 superseded, 2 duplicate (with the id that runs).
local function arrive(key, kind, id, token, ttl)
  local old = redis.call('HMGET', key, 'id', 'token', 'pending', 'lapsed', 'before', 'last')
  if kind == 'd' then
    if old[1] == id then
      if old[2] and old[2] ~= '' and old[2] ~= token then
        return {'1', ''}
      end
      redis.call('HSET', key, 'token', token, 'closed', '1')
    elseif old[5] == id and old[6] ~= token then
      return {'1', ''}
    end
    return {'0', ''}
  end
  if old[2] == token then
    if old[3] then
      redis.call('HDEL', key, 'pending')
      redis.call('PEXPIRE', key, ttl)
    end
  elseif old[4] and string.find(' ' .. old[4] .. ' ', ' ' .. token .. ' ', 1, true) then
    return {'2', old[1] or ''}
  end
  return {'0', ''}
end
