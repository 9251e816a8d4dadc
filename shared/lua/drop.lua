#!lua flags=allow-oom,no-cluster
-- A dead letter and its payloads are removed.
-- KEYS  none
-- ARGV  1 letter, 2 its job's id, 3 how many payloads
-- RETURNS 1 removed, 0 no such letter
local letter, id = ARGV[1], ARGV[2]
if redis.call('XDEL', DEAD, letter) == 0 then return 0 end
redis.call('HDEL', JOB .. id, 'letter')
for n = 0, tonumber(ARGV[3]) - 1 do redis.call('UNLINK', PAYLOAD .. id .. ':' .. n) end
return 1
