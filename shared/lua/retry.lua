#!lua flags=no-cluster
-- A dead letter becomes a new job, under a new id: a job has one outcome for ever. The payloads move to it and the
-- letter goes, so of many retries one makes a job. Refused at maxmemory on purpose, like any new job.
-- KEYS  none
-- ARGV  1 letter, 2 its job's id, 3 how many payloads, 4 new id, 5 list, 6 raw message, 7 ref, 8 deadline (ms from
--       now), 9 result TTL (ms), 10 size (bytes), 11 the registry's etag that the version was found in, 12... more record
--       fields as name, value pairs
-- RETURNS {'retried', created_at, deadline_at} (also when run again) | {'gone'} (no such letter) | {'payload', n} (which
--         is gone, its number or what the payload store calls it; nothing has changed) | {'outdated'} (look again; nothing has changed)
local letter, old, payloads, id = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local times = redis.call('HMGET', JOB .. id, 'created_at', 'deadline_at')
if times[1] then return { 'retried', times[1], times[2] } end
if outdated(ARGV[11]) then return { 'outdated' } end
if #redis.call('XRANGE', DEAD, letter, letter) == 0 then return { 'gone' } end
for n = 0, payloads - 1 do
  if redis.call('EXISTS', PAYLOAD .. old .. ':' .. n) == 0 then return { 'payload', n } end
end
local more = { unpack(ARGV, 12) }
local stored, files = telling(more)
local lost = missing_stored(stored, files, 0)
if lost then return { 'payload', lost } end
redis.call('XDEL', DEAD, letter)
redis.call('HDEL', JOB .. old, 'letter')
local ttl = tonumber(ARGV[9])
local deadline = now + tonumber(ARGV[8])
begin_job(id, ARGV[5], ARGV[6], ARGV[7], deadline, ttl, tonumber(ARGV[10]), more)
for n = 0, payloads - 1 do
  redis.call('RENAME', PAYLOAD .. old .. ':' .. n, PAYLOAD .. id .. ':' .. n)
  redis.call('PEXPIREAT', PAYLOAD .. id .. ':' .. n, deadline + ttl)
end
return { 'retried', now, deadline }
