#!lua flags=allow-oom,no-cluster
-- A dead letter and its payloads are removed.
-- KEYS  none
-- ARGV  1 letter, 2 its job's id, 3 how many payloads
-- RETURNS 1 removed, 0 no such letter
local letter, id = ARGV[1], ARGV[2]
local kept = redis.call('XRANGE', DEAD, letter, letter)[1]
if not kept then return 0 end
redis.call('XDEL', DEAD, letter)
for i = 1, #kept[2], 2 do
  if kept[2][i] == 'stored' then each_word(kept[2][i + 1], function(ref) free_stored(ref, now) end) end
end
redis.call('HDEL', JOB .. id, 'letter')
for n = 0, tonumber(ARGV[3]) - 1 do redis.call('UNLINK', PAYLOAD .. id .. ':' .. n) end
return 1
