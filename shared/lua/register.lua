#!lua flags=allow-oom,no-cluster
-- A new state of the registry, in the place of the one that its writer has read.
-- KEYS  none
-- ARGV  1 the etag that it has read ('': there was none), 2 the new etag, 3 the new document
-- RETURNS 1 it stands (also when run again) | 0 another was quicker
local etag = redis.call('HGET', REGISTRY, 'etag') or ''
if etag == ARGV[2] then return 1 end
if etag ~= ARGV[1] then return 0 end
redis.call('HSET', REGISTRY, 'etag', ARGV[2], 'document', ARGV[3])
return 1
