#!lua flags=allow-oom,no-cluster
-- Messages go back to the list they came from, to its near end, as the same bytes.
-- KEYS  none
-- ARGV  1 'expired', 'given-back' or 'suspects'
--       expired: 2 lease (ms), 3 how many at most. What a worker held that has not renewed for so long.
--       given-back: 2... delivery tags, oldest first. What a living worker will not run, or has not run to its end
--       for a reason that is not the job's: the start does not count as a crash.
--       suspects: 2... delivery tags. As given-back, but the jobs run alone from now on.
-- RETURNS the tags that went back
local tags = {}
if ARGV[1] == 'expired' then
  tags = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, tonumber(ARGV[3]))
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
    if state and ARGV[1] ~= 'expired' then redis.call('HDEL', JOB .. tag, 'runner') end
    if state and ARGV[1] == 'suspects' then redis.call('HSET', JOB .. tag, 'suspect', '1') end
    back[#back + 1] = tag
  end
end
return back
