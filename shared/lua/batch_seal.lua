#!lua flags=no-cluster
-- A batch that was sent whole is accepted: it can be seen, its deadline begins, and its first lines begin. Refused at
-- maxmemory on purpose.
-- KEYS  none
-- ARGV  1 id, 2 how many lines it has, 3 deadline (ms from now), 4 result TTL (ms), 5 idempotency scope or '',
--       6 fingerprint, 7 the registry's etag that the version was chosen by, 8 the owner that it is listed for
-- RETURNS {'accepted', id, created_at} (also when run again) | {'existing', id} | {'mismatch', id} | {'outdated'} (choose again)
--         | {'gone'} (it is not being sent any more, or lines are missing)
local id, idem, owner = ARGV[1], ARGV[5], ARGV[8]
local accepted_at = batch_fields(id, 'created_at')[1]
if accepted_at then return { 'accepted', id, tonumber(accepted_at) } end
if idem ~= '' then
  local seen = redis.call('GET', IDEMPOTENCY .. idem)
  if seen then
    local first, fingerprint = string.match(seen, '^(%S+) (%S+)$')
    if redis.call('EXISTS', BATCH .. first) == 1 then
      return { fingerprint == ARGV[6] and 'existing' or 'mismatch', first }
    end
  end
end
if outdated(ARGV[7]) then return { 'outdated' } end
local upload = redis.call('HMGET', UPLOAD .. id, 'total', 'refused', 'ref')
if upload[1] ~= ARGV[2] then return { 'gone' } end
local deadline, refused, ref = now + tonumber(ARGV[3]), tonumber(upload[2] or '0'), upload[3]
local expires = deadline + tonumber(ARGV[4])
redis.call('RENAME', UPLOAD .. id, BATCH .. id)
redis.call('HSET', BATCH .. id, 'state', 'queued', 'created_at', now, 'deadline_at', deadline, 'expires_at', expires,
  'ttl_ms', ARGV[4], 'fed', 0, 'running', 0, 'succeeded', 0, 'failed', refused, 'canceled', 0, 'done', 0)
for _, key in ipairs({ BATCH, LINES, REFUSED }) do redis.call('PEXPIREAT', key .. id, expires) end
if idem ~= '' then redis.call('SET', IDEMPOTENCY .. idem, id .. ' ' .. ARGV[6], 'PXAT', expires) end
schedule(id, ref, now)
redis.call('SADD', BATCHES_ON .. ref, id)

-- The list of its owner lives as long as the longest of its batches; what has expired goes from its old end.
local list = BATCHES_OF .. owner
for _, old in ipairs(redis.call('ZRANGE', list, 0, 9)) do
  if redis.call('EXISTS', BATCH .. old) == 0 then redis.call('ZREM', list, old) end
end
redis.call('ZADD', list, now, id)
if redis.call('PEXPIRETIME', list) < expires then redis.call('PEXPIREAT', list, expires) end

feed(id, 500)
end_if_done(id)
return { 'accepted', id, now }
