#!lua flags=allow-oom,no-cluster
-- Cancel: a queued job ends at once, a running one is marked and ends as canceled with its batch.
-- KEYS  none
-- ARGV  1 id, 2 ISO time, 3 '' or the channel of a caller who has gone: then only a queued job that nobody else
--       waits for and that has neither an idempotency key nor a webhook is canceled; 4 '1': or a running one
-- RETURNS '' (no such job) or the state before
local id, abandoned_by = ARGV[1], ARGV[3]
local job = fields(id, 'state', 'waiters', 'idem', 'webhook')
local state = job[1]
if not state then return '' end
if terminal[state] then return state end
if abandoned_by ~= '' then
  local kept = state == 'running' and ARGV[4] ~= '1'
  if kept or job[2] ~= abandoned_by or job[3] or job[4] then return state end
end
if state == 'queued' then
  end_job(id, 'canceled', 'canceled', revoked_meta(id, 'canceled', 'canceled', 'the job was canceled', ARGV[2]))
else
  redis.call('HSET', JOB .. id, 'canceled', '1')
end
return state
