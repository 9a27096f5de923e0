-- Keeps a dead letter. ARGV: 1 queue, 2 reason, 3 detail, 4 now in ms, 5 dead letters at most, 6 element.
bury(ARGV[1], ARGV[2], ARGV[3], 0, ARGV[4], tonumber(ARGV[5]), ARGV[6])
return 1
