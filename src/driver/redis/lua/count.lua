-- Counts parts of chords. KEYS: for each chord .j, .t, .s, .d, the record of its group, .c. ARGV: '1' when the order of
-- the header is kept; then for each chord the seconds that its keys, its group's record and a claim last ('0': for ever;
-- of the record: as it is), the number of its parts, and for each of them its id and index, its index, '1' if it failed,
-- the random end of its claim, its element.
-- Answer: for each part 0 (others are missing), 1 (complete, it has the claim), 2 (failed, it has the claim), 3 (over).
local call = redis.call
local ordered, at, answers = ARGV[1] == '1', 2, {}

-- Whether the chord may end with this batch: which part has the claim, and its answer.
local function claimer(keys, holder, mine, failed, count)
  if mine then
    return mine, failed[mine] and 2 or 1
  end
  local size = not holder and tonumber(call('GET', keys[3]) or nil)
  if not size then
    return nil
  end
  for place = 1, count do
    if failed[place] then return place, 2 end
  end
  local counted = ordered and call('ZCARD', keys[1]) or call('LLEN', keys[1])
  if counted >= size + tonumber(call('GET', keys[2]) or 0) then
    return count, 1
  end
  return nil
end

for first = 1, #KEYS, 6 do
  local keys = {unpack(KEYS, first, first + 5)}
  local ttl, group_ttl, claim_ttl, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local holder, before = call('GET', keys[6]), #answers
  at = at + 4
  for place = 1, count do
    answers[before + place] = holder == 'done' and 3 or 0
  end
  if holder == 'done' then
    at = at + 5 * count
  else
    local failed, tokens, mine = {}, {}, nil
    for place = 1, count do
      local member, score, element = ARGV[at], ARGV[at + 1], ARGV[at + 4]
      local new = call('SADD', keys[4], member) == 1
      if new then
        if ordered then call('ZADD', keys[1], score, element) else call('RPUSH', keys[1], element) end
      end
      -- One that has succeeded and is said to have failed when it comes again has succeeded.
      failed[place] = ARGV[at + 2] == '1' and (new or (ordered and call('ZSCORE', keys[1], element) ~= false))
      tokens[place] = member .. ':' .. ARGV[at + 3]
      if holder and string.sub(holder, 1, -18) == member then mine = place end
      at = at + 5
    end
    if ttl ~= '0' then
      for key = 1, 4 do call('EXPIRE', keys[key], ttl) end
      if group_ttl ~= '0' then call('EXPIRE', keys[5], group_ttl) end
    end
    local place, answer = claimer(keys, holder, mine, failed, count)
    if place then
      call('SET', keys[6], tokens[place], 'EX', claim_ttl)
      answers[before + place] = answer
    end
  end
end
return answers
