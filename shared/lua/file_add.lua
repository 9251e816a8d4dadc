#!lua flags=no-cluster
-- An uploaded file, whose objects are written: from now on jobs may use it. Refused at maxmemory on purpose.
-- KEYS  none
-- ARGV  1 id, 2 owner, 3 the reference under which it was written, 4 its reference (with the count of its objects), 5 TTL
--       (ms), 6 size (bytes), 7 how many bytes and 8 how many files an owner may have, 9... more fields as name, value pairs
-- RETURNS {'added', created_at, expires_at} | {'full', bytes and files that the owner has} (the objects are freed)
--         | {'gone'} (it took too long, and they are)
local id, owner, writing, ref, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[6])
local at = now + tonumber(ARGV[5])
if not redis.call('ZSCORE', STORED, writing) then return { 'gone' } end
local bytes, count = files_of(owner, now)
if bytes + size > tonumber(ARGV[7]) or count >= tonumber(ARGV[8]) then
  free_stored(writing, now)
  return { 'full', bytes, count }
end
if writing ~= ref then redis.call('ZREM', STORED, writing) end
redis.call('ZADD', STORED, at, ref)
expire_at(ref, at)
redis.call('HSET', FILE .. id, 'owner', owner, 'ref', ref, 'bytes', size, 'created_at', now, 'expires_at', at,
  unpack(ARGV, 9))
redis.call('PEXPIREAT', FILE .. id, at)
redis.call('ZADD', FILES .. owner, at, id .. ' ' .. ARGV[6])
redis.call('PEXPIREAT', FILES .. owner, redis.call('ZRANGE', FILES .. owner, -1, -1, 'WITHSCORES')[2])
return { 'added', now, at }
