#!lua flags=allow-oom,no-cluster
-- A file is nobody's to use or read any more. Its objects go now, or with the last job that uses it.
-- KEYS  none
-- ARGV  1 id
-- RETURNS 1, or 0: there is none, or it is deleted already
local key = FILE .. ARGV[1]
local file = redis.call('HMGET', key, 'ref', 'owner', 'bytes', 'uses', 'deleted')
if not file[1] or file[5] then return 0 end
redis.call('ZREM', FILES .. file[2], ARGV[1] .. ' ' .. file[3])
if tonumber(file[4] or '0') > 0 then
  redis.call('HSET', key, 'deleted', '1')
else
  free_stored(file[1], now)
  redis.call('DEL', key)
end
return 1
