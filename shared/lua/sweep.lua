#!lua flags=allow-oom,no-cluster
-- Delayed jobs whose start has come go to their lists. Jobs whose deadline has passed end, queued or running, with or without a living worker. What a lost record or a hand
-- in the database has left behind is mended. Dead letters that are too old go; their payloads have a TTL of the same length.
-- Lists that hold mostly messages of ended jobs are rid of them: nobody else would, while no worker drains them.
-- KEYS  none
-- ARGV  1 how many at most, 2 ISO time, 3 how long a dead letter is kept (ms), 4 how many lists a queue has, 5... for
--       each version its ref (its counters are mended) and its queue's lists
-- RETURNS {the ids that ended, how many strays were mended}
local ended, strays = {}, 0
local lists_each = tonumber(ARGV[4])
local SPARE = 1000 -- messages of ended jobs that are no burden

-- The counters by what is there: every job that has not ended is in DEADLINES. Only when something was amiss; it takes
-- about a second for half a million jobs.
local function nothing() return { queued = 0, delayed = 0, running = 0, bytes = 0 } end
local function recount()
  local found = {}
  write_counts()
  redis.call('DEL', ACTIVE)
  local function sum_of(ref)
    if not found[ref] then
      found[ref] = nothing()
      redis.call('DEL', OWNED .. ref)
    end
    return found[ref]
  end
  for _, id in ipairs(redis.call('ZRANGE', DEADLINES, 0, -1)) do
    local job = fields(id, 'ref', 'state', 'size', 'delayed', 'owner')
    if job[1] and not terminal[job[2]] then
      local sum = sum_of(job[1])
      local slot = job[4] and 'delayed' or job[2]
      sum[slot] = sum[slot] + 1
      sum.bytes = sum.bytes + tonumber(job[3])
      count_owned(named(job[5]), job[1], 1, tonumber(job[3]))
    end
  end
  for i = 5, #ARGV, 1 + lists_each do sum_of(ARGV[i]) end
  for ref, sum in pairs(found) do
    redis.call('HSET', COUNTERS .. ref, 'queued', sum.queued, 'delayed', sum.delayed, 'running', sum.running,
      'bytes', sum.bytes)
  end
end

-- Once ended jobs are more than half, so that a canceled job costs the same however many wait.
local function compact(ref, lists)
  local length, all = 0, {}
  for _, list in ipairs(lists) do
    for _, lane in ipairs(lanes(list)) do
      all[#all + 1] = lane
      length = length + redis.call('LLEN', lane)
    end
  end
  if length <= 2 * tonumber(redis.call('HGET', COUNTERS .. ref, 'queued') or '0') + SPARE then return end
  for _, list in ipairs(all) do
    local waiting = redis.call('LRANGE', list, 0, -1)
    redis.call('DEL', list)
    for _, raw in ipairs(waiting) do
      local readable, message = pcall(cjson.decode, raw)
      local job = readable and fields(message.properties.delivery_tag, 'state', 'linked') or { 'unreadable' }
      if job[1] and (not terminal[job[1]] or job[2]) then redis.call('RPUSH', list, raw) end
    end
  end
  for _, list in ipairs(lists) do
    if length_of(list) == 0 then redis.call('DEL', TURNS .. list) end
  end
end

start_due()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))) do
  local job = fields(id, 'state', 'canceled')
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
write_counts() -- what follows reads them

if redis.call('HLEN', UNACKED) ~= redis.call('ZCARD', LEASES)
  or redis.call('HLEN', UNACKED) ~= redis.call('HLEN', HOLDERS) then
  for _, tag in ipairs(redis.call('HKEYS', UNACKED)) do
    if not redis.call('ZSCORE', LEASES, tag) then
      redis.call('ZADD', LEASES, now, tag)
      strays = strays + 1
    end
  end
  for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    if redis.call('HEXISTS', UNACKED, tag) == 0 then
      forget_message(tag)
      strays = strays + 1
    end
  end
  for _, tag in ipairs(redis.call('HKEYS', HOLDERS)) do
    if redis.call('HEXISTS', UNACKED, tag) == 0 then redis.call('HDEL', HOLDERS, tag) end
  end
end

for i = 5, #ARGV, 1 + lists_each do compact(ARGV[i], { unpack(ARGV, i + 1, i + lists_each) }) end
-- Deliveries that nobody has taken, and that have expired since.
local expired = now - HOOK_TTL_MS
for _, host in ipairs(redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', expired, 'LIMIT', 0, 100)) do
  redis.call('ZREMRANGEBYSCORE', HOST .. host, '-inf', expired)
  set_due(host, '', nil)
end
redis.call('XTRIM', DEAD, 'MINID', now - tonumber(ARGV[3]))
return { ended, strays }
