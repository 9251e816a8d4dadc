#!lua flags=allow-oom,no-cluster
-- Messages go back to the list they came from, to its near end, as the same bytes. A job that was canceled while it ran
-- ends instead. Of one that has ended nothing goes back, unless it is linked (see worker/links.py).
-- KEYS  none
-- ARGV  1 'expired', 'given-back' or 'crashed', 2 ISO time
--       expired: 3 lease (ms), 4 heartbeat (ms), 5 how many at most to look at. What a worker held that has not renewed
--       for a lease. Every worker asks several times a lease; where nobody has asked for half of one, Redis or all of
--       them were away, so no lease could be renewed: they all begin anew, and nothing runs twice for it.
--       And what a living worker does not know of, since the answer to its drain was lost with a connection: its signs of
--       life do not renew it. Delayed jobs whose start has come go to their lists.
--       given-back: 3 worker's process id, 4... delivery tags, oldest first. What it holds and will not run, or has not
--       run to its end for a reason that is not the job's: the start does not count as a crash.
--       crashed: the same. The worker that gives them back dies of them, and has taken its sign of life away: the next
--       claim finds their starts to be crashes.
-- RETURNS the tags that went back
local why = ARGV[1]
local tags = {}

-- Without a lease, or unknown to the worker that it is filed under.
local function is_abandoned(tag, renewed, lease, heartbeat)
  if renewed <= now - lease then return true end
  local holder = redis.call('HGET', HOLDERS, tag)
  local beat = holder and redis.call('ZSCORE', WORKERS, holder)
  return beat and tonumber(beat) - renewed >= heartbeat
end

if why == 'expired' then
  local lease, heartbeat = tonumber(ARGV[3]), tonumber(ARGV[4])
  start_due()
  local asked = tonumber(redis.call('GET', BEAT) or '0')
  redis.call('SET', BEAT, now, 'PX', lease)
  if now - asked > lease / 2 then
    for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do redis.call('ZADD', LEASES, 'XX', now, tag) end
    return {}
  end
  local old = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now - math.min(lease, heartbeat), 'WITHSCORES', 'LIMIT', 0,
    tonumber(ARGV[5]))
  for i = 1, #old, 2 do
    if is_abandoned(old[i], tonumber(old[i + 1]), lease, heartbeat) then tags[#tags + 1] = old[i] end
  end
else
  for i = 4, #ARGV do
    if redis.call('HGET', HOLDERS, ARGV[i]) == ARGV[3] then tags[#tags + 1] = ARGV[i] end
  end
end

local back = {}
for i = #tags, 1, -1 do
  local tag = tags[i]
  local held = redis.call('HGET', UNACKED, tag)
  forget_message(tag)
  local job = fields(tag, 'state', 'canceled', 'batch', 'linked')
  local state = job[1]
  local ended = state and terminal[state]
  if job[2] and not ended then
    end_job(tag, 'canceled', 'canceled', revoked_meta(tag, 'canceled', 'canceled', 'the job was canceled', ARGV[2]))
    ended = true
  end
  -- What hangs on a linked job's outcome may not know of it yet: only who takes its message tells it.
  if held and (not ended or job[4]) then
    local newline = string.find(held, '\n', 1, true)
    push_near(string.sub(held, 1, newline - 1), tag, string.sub(held, newline + 1))
    if state == 'running' and not ended then
      redis.call('HSET', JOB .. tag, 'state', 'queued')
      redis.call('HDEL', JOB .. tag, 'progress', 'progress_at')
      count_of(tag, 'running', -1)
      count_of(tag, 'queued', 1)
      if job[3] then line_back(job[3]) end
    end
    if state and why == 'given-back' then redis.call('HDEL', JOB .. tag, 'runner') end
    back[#back + 1] = tag
  end
end
return back
