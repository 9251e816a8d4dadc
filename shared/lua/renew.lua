#!lua flags=allow-oom,no-cluster
-- A worker's sign of life, and new leases for the messages that it holds.
-- KEYS  none
-- ARGV  1 worker's process id, 2 its sign (JSON), 3 how long the sign lives (ms), 4... the delivery tags
-- RETURNS the tags that it holds no more: finished, or taken away after the lease ran out and perhaps another's by now
local sign_ms = tonumber(ARGV[3])
redis.call('SET', WORKER .. ARGV[1], ARGV[2], 'PX', sign_ms)
redis.call('ZADD', WORKERS, now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', now - 2 * sign_ms)
redis.call('PEXPIRE', WORKERS, 2 * sign_ms)
local lost = {}
for i = 4, #ARGV do
  local tag = ARGV[i]
  if redis.call('HGET', HOLDERS, tag) == ARGV[1] then
    redis.call('ZADD', LEASES, 'XX', now, tag)
  else
    lost[#lost + 1] = tag
  end
end
return lost
