#!lua flags=allow-oom,no-cluster
-- What is due of batches, a bounded part of it: lines begin where a full queue has kept them, or a hand in the database;
-- the deadline ends those that have not begun; canceled lines end; what was not sent to its end goes. Any process may
-- call it at any time: whoever comes first puts the next look off for a second.
-- KEYS  none
-- ARGV  1 how many lines at most, 2 ISO time, 3 a batch to look at whether it is due or not, or ''
-- RETURNS how many lines it has dealt with: call again while it is as many as it may
local budget, iso = tonumber(ARGV[1]), ARGV[2]

-- A line whose record is gone (a hand in the database) will never end by itself.
local function mend(id)
  for _, line in ipairs(redis.call('SRANDMEMBER', OPEN .. id, 20)) do
    if redis.call('EXISTS', JOB .. id .. '-' .. line) == 0 then line_ended(id, line, '', 'failed', 0) end
  end
end

local function cancel_open(id, most)
  local ended = 0
  for _, line in ipairs(redis.call('SMEMBERS', OPEN .. id)) do
    if ended >= most then break end
    local job = id .. '-' .. line
    local seen = fields(job, 'state', 'canceled')
    if seen[1] == 'queued' then
      end_job(job, 'canceled', 'canceled', revoked_meta(job, 'canceled', 'canceled', 'the batch was canceled', iso))
      ended = ended + 1
    elseif seen[1] == 'running' and not seen[2] then
      redis.call('HSET', JOB .. job, 'canceled', '1')
      ended = ended + 1
    end
  end
  return ended
end

local function look(id, ref)
  local member = id .. ' ' .. ref
  if redis.call('EXISTS', BATCH .. id) == 0 then
    redis.call('UNLINK', UPLOAD .. id, REFUSED .. id, OPEN .. id)
    redis.call('SREM', BATCHES_ON .. ref, id)
    local dropped = drop_lines(id, budget)
    if redis.call('EXISTS', LINES .. id) == 0 then redis.call('ZREM', BATCHES, member) end
    return dropped
  end
  local batch = batch_fields(id, 'deadline_at', 'cut', 'state')
  if tonumber(batch[1]) <= now and not batch[2] then cut_lines(id, 'deadline_exceeded') end
  redis.call('ZADD', BATCHES, now + 1000, member)
  local count = 0
  if batch_fields(id, 'cut')[1] then
    count = drop_lines(id, budget)
    if batch[3] == 'canceled' then count = count + cancel_open(id, math.max(0, budget - count)) end
    if count == budget then redis.call('ZADD', BATCHES, now, member) end
  else
    count = feed(id, budget)
  end
  mend(id)
  end_if_done(id)
  if batch_fields(id, 'finished_at')[1] and redis.call('EXISTS', LINES .. id) == 0 then
    redis.call('ZREM', BATCHES, member)
  end
  return count
end

local most, members = budget, {}
if ARGV[3] ~= '' then
  local ref = batch_fields(ARGV[3], 'ref')[1]
  if ref and redis.call('ZSCORE', BATCHES, ARGV[3] .. ' ' .. ref) then members = { ARGV[3] .. ' ' .. ref } end
else
  members = redis.call('ZRANGEBYSCORE', BATCHES, '-inf', now, 'LIMIT', 0, 50)
end
for _, member in ipairs(members) do
  if budget <= 0 then break end
  budget = budget - look(string.match(member, '^(%S+) (.*)$'))
end
if #members == 50 and budget > 0 then budget = 0 end -- there are more
return most - budget
