#!lua flags=no-cluster
-- How far a job is, as its worker tells: the last that was told, and news for who listens. Of a job that this worker
-- does not run any more nothing is told. Refused at maxmemory: no job hangs on it.
-- KEYS  none
-- ARGV  1 worker's process id, 2 id, 3 progress as JSON
-- RETURNS 1 told, 0 it does not run there
local id = ARGV[2]
local job = fields(id, 'state', 'runner', 'listeners')
if job[1] ~= 'running' or job[2] ~= ARGV[1] then return 0 end
redis.call('HSET', JOB .. id, 'progress', ARGV[3], 'progress_at', now)
if job[3] then tell(job[3], id, 'progress', '') end
return 1
