#!lua flags=allow-oom,no-cluster
-- Renew the leases of the messages that a worker still holds.
-- KEYS  none
-- ARGV  the delivery tags
-- RETURNS the tags that are held no more: finished, or taken away after the lease ran out
local lost = {}
for _, tag in ipairs(ARGV) do
  if redis.call('ZSCORE', LEASES, tag) then redis.call('ZADD', LEASES, 'XX', now, tag) else lost[#lost + 1] = tag end
end
return lost
