#!lua flags=allow-oom,no-cluster
-- A plain Celery producer's message becomes a job of ours and moves from unacked to its version's list.
-- KEYS  none
-- ARGV  1 delivery tag, 2 id, 3 list, 4 raw message, 5 ref, 6 deadline (ms from now), 7 result TTL (ms),
--       8 size (bytes), 9... more record fields as name, value pairs
-- RETURNS 1 adopted, 0 there is a job of that id already (the message is only forgotten)
local tag, id = ARGV[1], ARGV[2]
forget_message(tag)
if redis.call('EXISTS', JOB .. id) == 1 or redis.call('EXISTS', OUTCOME .. id) == 1 then return 0 end
begin_job(id, ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), { unpack(ARGV, 9) })
return 1
