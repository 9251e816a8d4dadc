#!lua flags=allow-oom,no-cluster
-- Messages go back to the list they came from, to its near end, as the same bytes.
-- KEYS  none
-- ARGV  1 'expired', 'given-back' or 'crashed'
--       expired: 2 lease (ms), 3 how many at most. What a worker held that has not renewed for so long. Every worker asks
--       several times a lease; where nobody has asked for half of one, Redis or all of them were away, so no lease could
--       be renewed: they all begin anew, and nothing runs twice for it.
--       given-back: 2... delivery tags, oldest first. What a living worker will not run, or has not run to its end
--       for a reason that is not the job's: the start does not count as a crash.
--       crashed: 2... delivery tags. The worker that gives them back dies of them, and has taken its sign of life away:
--       the next claim finds their starts to be crashes.
-- RETURNS the tags that went back
local why = ARGV[1]
local tags = {}
if why == 'expired' then
  local lease = tonumber(ARGV[2])
  local asked = tonumber(redis.call('GET', BEAT) or '0')
  redis.call('SET', BEAT, now, 'PX', lease)
  if now - asked > lease / 2 then
    for _, tag in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do redis.call('ZADD', LEASES, 'XX', now, tag) end
    return {}
  end
  tags = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now - lease, 'LIMIT', 0, tonumber(ARGV[3]))
else
  for i = 2, #ARGV do tags[#tags + 1] = ARGV[i] end
end
local back = {}
for i = #tags, 1, -1 do
  local tag = tags[i]
  local held = redis.call('HGET', UNACKED, tag)
  forget_message(tag)
  local state = field(tag, 'state')
  if held and not (state and terminal[state]) then
    local newline = string.find(held, '\n', 1, true)
    redis.call('RPUSH', string.sub(held, 1, newline - 1), string.sub(held, newline + 1))
    if state == 'running' then
      redis.call('HSET', JOB .. tag, 'state', 'queued')
      count(tag, 'running', -1)
      count(tag, 'queued', 1)
    end
    if state and why == 'given-back' then redis.call('HDEL', JOB .. tag, 'runner') end
    back[#back + 1] = tag
  end
end
return back
