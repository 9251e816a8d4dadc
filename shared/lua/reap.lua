#!lua flags=allow-oom,no-cluster
-- What has expired in the payload store is doomed, and what is doomed is handed out to be deleted: again after a while,
-- until somebody says that it is (ZREM of DOOMED). Redis's own objects go by their TTL.
-- KEYS  none
-- ARGV  1 how many at most, 2 how long (ms) nobody else is to try
-- RETURNS references
local most = tonumber(ARGV[1])
for _, ref in ipairs(redis.call('ZRANGEBYSCORE', STORED, '-inf', now, 'LIMIT', 0, most)) do free_stored(ref, now) end
local due = redis.call('ZRANGEBYSCORE', DOOMED, '-inf', now, 'LIMIT', 0, most)
for _, ref in ipairs(due) do redis.call('ZADD', DOOMED, now + tonumber(ARGV[2]), ref) end
return due
