#!lua flags=allow-oom,no-cluster
-- What came of an attempt to deliver, and what follows: nothing more, or another attempt later, with the same bytes. From
-- the first on the job lives no longer for its webhook's sake.
-- KEYS  none
-- ARGV  1 delivery, 2 who holds it, 3 'delivered', 'retry', 'failed' (for good), 'disabled' (410), or 'back' (it was
--       not tried), 4 HTTP status or '', 5 error or '', 6 ms that it took, 7 ms until it is due again, 8 the body or '',
--       9 how many attempts are kept
-- RETURNS the delivery's state now, '' if there is none any more
-- Whose lease ran out while it delivered tells of a success alone: another has the delivery by now.
local delivery, outcome, wait = ARGV[1], ARGV[3], tonumber(ARGV[7])
local hash = HOOK .. delivery
local hook = redis.call('HMGET', hash, 'state', 'holder', 'host', 'owner', 'url', 'log', 'of', 'kind')
if not hook[1] then return '' end
local mine = hook[1] == 'due' and hook[2] == ARGV[2]

local function again()
  redis.call('HSET', hash, 'next_at', now + wait)
  redis.call('HDEL', hash, 'holder')
  redis.call('PEXPIRE', hash, wait + HOOK_TTL_MS)
  set_due(hook[3], delivery, now + wait)
  return 'due'
end

if outcome == 'back' then return mine and again() or hook[1] end

local lines = {}
for line in string.gmatch(hook[6] or '', '[^\n]+') do lines[#lines + 1] = line end
lines[#lines + 1] = cjson.encode({
  at = now - tonumber(ARGV[6]), ms = tonumber(ARGV[6]),
  status = tonumber(ARGV[4]) or cjson.null, error = ARGV[5] ~= '' and ARGV[5] or cjson.null,
})
redis.call('HSET', hash, 'log', table.concat(lines, '\n', math.max(1, #lines - tonumber(ARGV[9]) + 1)))
redis.call('HINCRBY', HOOK_COUNTS, outcome, 1)
if not mine and (outcome ~= 'delivered' or hook[1] == 'delivered') then return hook[1] end

if ARGV[8] ~= '' then redis.call('HSETNX', hash, 'body', ARGV[8]) end
redis.call('HDEL', hash, 'forced')
if outcome == 'retry' then
  redis.call('HINCRBY', hash, 'tries', 1)
  again()
  release(hash)
  return 'due'
end
local off = hook_off(hook[4], hook[5])
if outcome == 'disabled' then redis.call('SET', off, '1', 'PX', HOOK_OFF_TTL_MS) end
end_delivery(delivery, hook[3], outcome)
if outcome == 'delivered' then
  redis.call('DEL', off)
  redis.call('HDEL', hash, 'body')
  local record = (hook[8] == 'batch' and BATCH or JOB) .. hook[7]
  redis.call('PEXPIRE', hash, math.max(3600000, redis.call('PTTL', record))) -- its log, as long as its job
end
return outcome
