#!lua flags=allow-oom,no-cluster
-- Read a batch; while it has not ended, add a channel that is told of it.
-- KEYS  none
-- ARGV  1 id, 2 channel or '' (only read)
-- RETURNS {now, record as name, value pairs (empty: no such batch)}
local id, channel = ARGV[1], ARGV[2]
local batch = batch_fields(id, 'state', 'waiters')
if not batch[1] then return { now, {} } end
if channel ~= '' and batch[1] ~= 'completed' and batch[1] ~= 'canceled' then
  local waiters = batch[2] or ''
  if not string.find('\n' .. waiters .. '\n', '\n' .. channel .. '\n', 1, true) then
    redis.call('HSET', BATCH .. id, 'waiters', waiters == '' and channel or waiters .. '\n' .. channel)
  end
end
return { now, redis.call('HGETALL', BATCH .. id) }
