#!lua flags=allow-oom,no-cluster
-- Read a job; while it has no outcome, add a channel that is told of it. One step, so no outcome falls between.
-- KEYS  none
-- ARGV  1 id, 2 channel or '' (only read), 3 '1': it is told of the job's start and progress too
-- RETURNS {record as name, value pairs (empty: no such job), outcome or ''}
local id, channel = ARGV[1], ARGV[2]
local job = fields(id, 'state', 'waiters', 'listeners')
if not job[1] then return { {}, '' } end
local record = redis.call('HGETALL', JOB .. id)
if terminal[job[1]] then return { record, redis.call('GET', OUTCOME .. id) or '' } end

local function add(name, channels)
  if not string.find('\n' .. channels .. '\n', '\n' .. channel .. '\n', 1, true) then
    redis.call('HSET', JOB .. id, name, channels == '' and channel or channels .. '\n' .. channel)
  end
end

if channel ~= '' then
  add('waiters', job[2] or '')
  if ARGV[3] == '1' then add('listeners', job[3] or '') end
end
return { record, '' }
