#!lua flags=allow-oom,no-cluster
-- Write a job's outcome once (the first wins), forget its message, wake who waits: one step.
-- A job that was canceled while it ran ends as canceled, and its output is dropped.
-- KEYS  none
-- ARGV  1 delivery tag or '' (keep the message), 2 id, 3 state, 4 code or '', 5 outcome in Celery's format,
--       6 ISO time, 7 TTL (ms) for an outcome without a record (an unknown model from plain Celery), 8 '' or the reference
--       of the output, where that lies in the payload store: it lives as long as the outcome, or goes if another stands;
--       and, to be counted for the job's key: 9 items, 10 tokens, 11 microseconds on the device
-- RETURNS {1 first | 0 there was an outcome already, the state that stands}
local tag, id, state, output = ARGV[1], ARGV[2], ARGV[3], ARGV[8]
if tag ~= '' then forget_message(tag) end
local job = fields(id, 'state', 'canceled', 'ref', 'owner', 'ttl_ms')
if output ~= '' and (not job[1] or terminal[job[1]] or job[2]) then free_stored(output, now) end
if not job[1] then
  if redis.call('SET', OUTCOME .. id, ARGV[5], 'PX', tonumber(ARGV[7]), 'NX') then
    redis.call('PUBLISH', OUTCOME .. id, ARGV[5])
    return { 1, state }
  end
  return { 0, '' }
end
if terminal[job[1]] then return { 0, job[1] } end
if job[2] then
  end_job(id, 'canceled', 'canceled', revoked_meta(id, 'canceled', 'canceled', 'the job was canceled', ARGV[6]))
  state = 'canceled'
else
  end_job(id, state, ARGV[4], ARGV[5])
  if output ~= '' then expire_at(output, now + tonumber(job[5])) end
end
measure(COUNTERS .. job[3])
local owner = named(job[4])
if owner ~= '' and ARGV[9] then
  local used = USAGE .. owner .. ':' .. math.floor(now / 86400000)
  redis.call('HINCRBY', used, job[3] .. ' jobs', 1)
  for i, what in ipairs({ 'items', 'tokens', 'device_us' }) do
    redis.call('HINCRBY', used, job[3] .. ' ' .. what, ARGV[8 + i])
  end
  redis.call('PEXPIRE', used, USAGE_TTL_MS)
end
return { 1, state }
