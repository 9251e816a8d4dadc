#!lua flags=allow-oom,no-cluster
-- Objects of these references are about to be written, or are still being: whatever becomes of the writer, they go then.
-- KEYS  none
-- ARGV  1 ms from now, 2... references
-- RETURNS nothing
local at = now + tonumber(ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', STORED, 'GT', at, ARGV[i])
  keep_until(ARGV[i], at)
end
