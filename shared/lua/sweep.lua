#!lua flags=allow-oom,no-cluster
-- Jobs whose deadline has passed end, queued or running, with or without a living worker.
-- KEYS  none
-- ARGV  1 how many at most, 2 ISO time
-- RETURNS the ids that ended
local ended = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))) do
  local job = redis.call('HMGET', JOB .. id, 'state', 'canceled')
  if job[1] and not terminal[job[1]] then
    if job[2] then
      end_job(id, 'canceled', 'canceled', revoked_meta(id, 'canceled', 'canceled', 'the job was canceled', ARGV[2]))
    else
      end_job(id, 'failed', 'deadline_exceeded',
        revoked_meta(id, 'expired', 'deadline_exceeded', 'the deadline passed before the job ended', ARGV[2]))
    end
    ended[#ended + 1] = id
  else
    redis.call('ZREM', DEADLINES, id)
  end
end
return ended
