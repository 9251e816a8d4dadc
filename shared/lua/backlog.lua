#!lua flags=no-writes,allow-oom,no-cluster
-- How many deliveries wait, and since when.
-- KEYS  none
-- RETURNS {all that are not done, those that are due and not taken, ms since the first of these was due}
local all, due = 0, 0
for _, host in ipairs(redis.call('ZRANGE', WEBHOOKS, 0, 9999)) do
  all = all + redis.call('ZCARD', HOST .. host)
  due = due + redis.call('ZCOUNT', HOST .. host, '-inf', now)
end
local first = redis.call('ZRANGE', WEBHOOKS, 0, 0, 'WITHSCORES')[2]
return { all, due, first and math.max(0, now - first) or 0 }
