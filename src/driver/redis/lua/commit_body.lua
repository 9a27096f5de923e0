-- A commit that calls the body of a chord, and the end of that chord. KEYS and ARGV as for a commit; behind them the keys of
-- the chord as for its end, and its claim, seconds to remember it ('0': for ever), its id.
-- Answer: 0 when the claim is not held, else what the commit answers.
local token, remembered, group = ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]
local chord = #KEYS - 7

local function there(what)
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[9]) end
  local answer = what()
  if ARGV[8] ~= ARGV[9] then redis.call('SELECT', ARGV[8]) end
  return answer
end

if there(function() return redis.call('GET', KEYS[chord + 1]) end) ~= token then
  return 0
end
local answer = commit()
if answer ~= '0' then
  there(function()
    redis.call('DEL', unpack(KEYS, chord + 2, chord + 6))
    redis.call('ZREM', KEYS[chord + 7], group)
    if remembered == '0' then
      redis.call('SET', KEYS[chord + 1], 'done')
    else
      redis.call('SET', KEYS[chord + 1], 'done', 'EX', remembered)
    end
  end)
end
return answer
