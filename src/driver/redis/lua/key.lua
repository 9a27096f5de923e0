-- One step with keys. ARGV: 1 what: `reserve`, `confirm`, `arrive`, `free`, `renew` or `lock`, then what it needs.
local what = ARGV[1]
if what == 'reserve' then
  -- KEYS: the key. ARGV: 2 kind, 3 id, 4 token, 5 ms, 6 ms until it lapses, 7 ms it may be put off. Answer: that of `admit`.
  return admit(KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
elseif what == 'confirm' then
  -- The same.
  return confirm(KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
elseif what == 'arrive' then
  -- KEYS: the key, perhaps that of the turn. ARGV: 2 to 5 the same. Answer: that of `arrive`, or 3 to wait.
  local turn = arrive(KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
  if turn[1] == '0' and KEYS[2] and not take(KEYS[2], ARGV[3], ARGV[4], ARGV[5]) then
    return {'3', ''}
  end
  return turn
elseif what == 'lock' then
  -- KEYS: the lock, the last number. ARGV: 2 token, 3 ms. Answer: its number, or 0.
  if not take(KEYS[1], '', ARGV[2], ARGV[3]) then
    return 0
  end
  return redis.call('INCR', KEYS[2])
end
-- KEYS: any number. ARGV: for each its token, and ms. Answer: for each whether it was its token's.
local answers = {}
for i, key in ipairs(KEYS) do
  local ours = redis.call('HGET', key, 'token') == ARGV[2 * i]
  answers[i] = ours and 1 or 0
  if ours and what == 'free' then
    redis.call('DEL', key)
  elseif ours then
    redis.call('PEXPIRE', key, ARGV[2 * i + 1])
  end
end
return answers
