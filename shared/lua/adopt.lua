#!lua flags=allow-oom,no-cluster
-- A plain Celery producer's message becomes a job of ours and moves from unacked to its version's list.
-- KEYS  none
-- ARGV  1 delivery tag, 2 id, 3 list, 4 raw message, 5 ref, 6 deadline (ms from now), 7 result TTL (ms),
--       8 size (bytes), 9 '' or the deadline as an instant (ms), which goes before the other, 10 '' or the instant (ms)
--       at which it may start, 11 the registry's etag that the version was chosen by, 12... more record fields as name,
--       value pairs
-- RETURNS 1 adopted, 0 there is a job of that id already (the message is only forgotten), -1 outdated: choose again
--         (nothing has changed)
local tag, id = ARGV[1], ARGV[2]
if outdated(ARGV[11]) then return -1 end
forget_message(tag)
if redis.call('EXISTS', JOB .. id) == 1 or redis.call('EXISTS', OUTCOME .. id) == 1 then return 0 end
local start = math.max(now, tonumber(ARGV[10]) or now)
local deadline = math.max(now + 1, tonumber(ARGV[9]) or start + tonumber(ARGV[6]))
begin_job(id, ARGV[3], ARGV[4], ARGV[5], deadline, tonumber(ARGV[7]), tonumber(ARGV[8]), { unpack(ARGV, 12) }, start)
return 1
