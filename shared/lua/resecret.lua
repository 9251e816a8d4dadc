#!lua flags=allow-oom,no-cluster
-- What an owner's webhooks are signed with, in the place of what its writer has read.
-- KEYS  none
-- ARGV  1 owner, 2 what was read ('': nothing), 3 the new
-- RETURNS 1, or 0 if another was quicker (nothing has changed)
if (redis.call('HGET', HOOK_SECRETS, ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', HOOK_SECRETS, ARGV[1], ARGV[3])
return 1
