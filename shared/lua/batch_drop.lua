#!lua flags=allow-oom,no-cluster
-- A batch that is not sent to its end goes, a slice of its lines at a time. One that was accepted stays.
-- KEYS  none
-- ARGV  1 id, 2 ref, 3 how many lines at most
-- RETURNS 1: call again, 0: nothing is left
local id, most = ARGV[1], tonumber(ARGV[3])
if redis.call('EXISTS', BATCH .. id) == 1 then return 0 end
redis.call('UNLINK', UPLOAD .. id, REFUSED .. id)
if drop_lines(id, most) == most then
  schedule(id, ARGV[2], now)
  return 1
end
redis.call('ZREM', BATCHES, id .. ' ' .. ARGV[2])
return 0
