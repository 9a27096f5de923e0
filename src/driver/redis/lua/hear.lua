-- Keeps what was published to a fanout exchange for one worker, once.
--
-- KEYS: the list; what remembers the message. ARGV: 1 element, 2 ms for which it is remembered, 3 ms for which the
-- list is kept when nobody takes from it. Answer: whether it is new.
if not redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[2]) then
  return 0
end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
