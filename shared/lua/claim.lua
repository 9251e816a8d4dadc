#!lua flags=allow-oom,no-cluster
-- A worker is about to run these jobs: queued -> running, one attempt more. Jobs that need no run are told.
-- A start that neither finished nor was given back, by a worker that is gone, is a crash. A job with a crash is a
-- suspect: it runs alone from then on, and only crashes of solo starts count toward max_attempts.
-- A call only asks somebody else, beside what else runs: a crash in the middle of it is hardly its fault. It makes no
-- suspect, and only many of them (three times max_attempts, and one) end the job.
-- A job whose items make several batches is claimed before each: that is one attempt, and it can still be canceled.
-- KEYS  none
-- ARGV  1 worker's process id, 2 worker's name, 3 max attempts, 4 '0' in company, '1' a solo start, '2' a call, 5 ISO time for
--       outcomes written here, 6... job ids
-- RETURNS for each id {verdict, attempt, started_at, queued_at, the code of a failure written here}: 'run' | 'suspect' (run it alone; not started) |
--         'ended' (has an outcome, perhaps written here; third is the state) | 'missing' |
--         'paused' (its model is; not started) | 'lost' (its message is not this worker's any more: the lease ran out)
local paused = paused_models()
local worker, name, limit, solo, iso = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

local holders = #ARGV > 5 and redis.call('HMGET', HOLDERS, unpack(ARGV, 6)) or {}

local function claim(id, holder)
  local key = JOB .. id
  local job = fields(id, 'state', 'deadline_at', 'runner', 'solo', 'crashes', 'suspect', 'attempt', 'ref',
    'canceled', 'started_at', 'created_at', 'queued_at', 'listeners', 'webhook', 'batch')
  local state, attempt = job[1], tonumber(job[7] or '0')
  if not state then return { 'missing', 0, '' } end
  if terminal[state] then return { 'ended', attempt, state } end
  if tonumber(job[2]) <= now then
    end_job(id, 'failed', 'deadline_exceeded',
      revoked_meta(id, 'expired', 'deadline_exceeded', 'the deadline passed before the job ran', iso))
    return { 'ended', attempt, 'failed' }
  end
  if job[9] then
    end_job(id, 'canceled', 'canceled', revoked_meta(id, 'canceled', 'canceled', 'the job was canceled', iso))
    return { 'ended', attempt, 'canceled' }
  end
  if holder ~= worker then return { 'lost', attempt, '' } end
  local runner, suspect, queued_at = job[3], job[6], job[12] or job[11]
  if runner == worker and state == 'running' then return { 'run', attempt, job[10], queued_at } end
  if runner and runner ~= worker and redis.call('EXISTS', WORKER .. runner) == 0 then
    local called = job[4] == '2'
    if not called then
      suspect = '1'
      redis.call('HSET', key, 'suspect', '1')
    end
    redis.call('HDEL', key, 'runner')
    if called or job[4] == '1' then
      local crashes = redis.call('HINCRBY', key, 'crashes', 1)
      local held = redis.call('HGET', UNACKED, id)
      if crashes >= (called and 3 * limit + 1 or limit) and held then
        local list, message = string.match(held, '^([^\n]*)\n(.*)$')
        end_job(id, 'failed', 'attempts_exhausted', failed_meta(id, 'attempts_exhausted',
          'the worker process died each of the ' .. crashes .. ' times it ran this job' .. (called and '' or ' alone'), iso))
        dead_letter('attempts_exhausted', id, list, message)
        return { 'ended', attempt, 'failed', '0', 'attempts_exhausted' }
      end
    end
  end
  if suspect and solo == '0' then return { 'suspect', attempt, '' } end
  if paused[string.match(job[8] or '', '^(.*)@')] then return { 'paused', attempt, '' } end
  if state == 'queued' then count_started(job[8]) end
  if state == 'queued' and job[15] then line_started(job[15]) end
  start_job(key, attempt + 1, worker, name, solo)
  if job[13] then tell(job[13], id, 'running', '') end
  if job[14] and attempt == 0 then notify('job', key, id, 'running') end
  return { 'run', attempt + 1, tostring(now), queued_at }
end

local out = {}
for i = 6, #ARGV do out[#out + 1] = claim(ARGV[i], holders[i - 5]) end
return out
