#!lua flags=allow-oom,no-cluster
-- Jobs whose deadline has passed end, queued or running, with or without a living worker. What a lost record or a hand
-- in the database has left behind is mended. Dead letters that are too old go; their payloads have a TTL of the same length.
-- KEYS  none
-- ARGV  1 how many at most, 2 ISO time, 3 how long a dead letter is kept (ms), 4... the refs whose counters are mended
-- RETURNS {the ids that ended, how many strays were mended}
local ended, strays = {}, 0

-- The counters by what is there: every job that has not ended is in DEADLINES. Only when something was amiss; it takes
-- about a second for half a million jobs.
local function recount()
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', DEADLINES, 0, -1)) do
    local job = redis.call('HMGET', JOB .. id, 'ref', 'state', 'size')
    if job[1] and not terminal[job[2]] then
      local sum = found[job[1]] or { queued = 0, running = 0, bytes = 0 }
      sum[job[2]] = sum[job[2]] + 1
      sum.bytes = sum.bytes + tonumber(job[3])
      found[job[1]] = sum
    end
  end
  for i = 4, #ARGV do found[ARGV[i]] = found[ARGV[i]] or { queued = 0, running = 0, bytes = 0 } end
  for ref, sum in pairs(found) do
    redis.call('HSET', COUNTERS .. ref, 'queued', sum.queued, 'running', sum.running, 'bytes', sum.bytes)
  end
end

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
    strays = strays + 1
  end
end

if strays > 0 then recount() end

if redis.call('HLEN', UNACKED) ~= redis.call('ZCARD', LEASES) then
  for _, tag in ipairs(redis.call('HKEYS', UNACKED)) do
    if not redis.call('ZSCORE', LEASES, tag) then
      redis.call('ZADD', LEASES, now, tag)
      strays = strays + 1
    end
  end
  for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    if redis.call('HEXISTS', UNACKED, tag) == 0 then
      redis.call('ZREM', LEASES, tag)
      strays = strays + 1
    end
  end
end
redis.call('XTRIM', DEAD, 'MINID', now - tonumber(ARGV[3]))
return { ended, strays }
