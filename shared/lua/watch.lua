#!lua flags=allow-oom,no-cluster
-- Read a job; while it has no outcome, add a channel that is told of it. One step, so no outcome falls between.
-- KEYS  none
-- ARGV  1 id, 2 channel or '' (only read)
-- RETURNS {record as name, value pairs (empty: no such job), outcome or ''}
local id, channel = ARGV[1], ARGV[2]
local job = fields(id, 'state', 'waiters')
if not job[1] then return { {}, '' } end
local record = redis.call('HGETALL', JOB .. id)
if terminal[job[1]] then return { record, redis.call('GET', OUTCOME .. id) or '' } end
if channel ~= '' then
  local waiters = job[2] or ''
  if not string.find('\n' .. waiters .. '\n', '\n' .. channel .. '\n', 1, true) then
    redis.call('HSET', JOB .. id, 'waiters', waiters == '' and channel or waiters .. '\n' .. channel)
  end
end
return { record, '' }
