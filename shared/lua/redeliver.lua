#!lua flags=allow-oom,no-cluster
-- Deliver again, now, and by the whole schedule; also to a receiver that is disabled. What is under way stays so.
-- KEYS  none
-- ARGV  deliveries
-- RETURNS for each '' (no such), 'gone' (its body was delivered, and its job or batch has expired), or 'due'
local out = {}
for i, delivery in ipairs(ARGV) do
  local hash = HOOK .. delivery
  local hook = redis.call('HMGET', hash, 'state', 'holder', 'host', 'kind', 'of')
  if not hook[1] then
    out[i] = ''
  elseif redis.call('EXISTS', (hook[4] == 'batch' and BATCH or JOB) .. hook[5]) + redis.call('HEXISTS', hash, 'body') == 0 then
    out[i] = 'gone'
  else
    out[i] = 'due'
    local leased = tonumber(redis.call('ZSCORE', HOST .. hook[3], delivery) or '0') > now
    if not (hook[1] == 'due' and hook[2] and leased) then
      redis.call('HSET', hash, 'state', 'due', 'tries', 0, 'next_at', now, 'forced', '1')
      redis.call('HDEL', hash, 'holder')
      redis.call('PEXPIRE', hash, HOOK_TTL_MS)
      set_due(hook[3], delivery, now)
      redis.call('PUBLISH', WEBHOOKS, delivery)
    end
  end
end
return out
