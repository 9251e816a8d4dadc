#!lua flags=allow-oom,no-cluster
-- Write the outcomes of jobs, each once (the first wins), forget their messages, wake who waits. All is one step, and each
-- job is by itself: what fails of one is told in its place, and changes nothing for the others. A message is only
-- forgotten where an outcome stands.
-- A job that was canceled while it ran ends as canceled, and its output is dropped.
-- KEYS  none
-- ARGV  1 ISO time, 2 TTL (ms) for an outcome without a record (an unknown model from plain Celery); then for each job
--       nine: delivery tag or '' (keep the message), id, state, code or '', outcome in Celery's format, '' or the reference
--       of the output, where that lies in the payload store: it lives as long as the outcome, or goes if another stands;
--       and, to be counted for the job's key, items ('': nothing is counted), tokens, microseconds on the device
-- RETURNS for each {1 first | 0 there was an outcome already, the state that stands}, or an error
local iso, ttl_ms, EACH = ARGV[1], tonumber(ARGV[2]), 9
local forgotten, ends, used = {}, {}, {}

local function use(owner, ref, at)
  local usage = USAGE .. owner .. ':' .. math.floor(now / 86400000)
  used[usage] = true
  count_up(usage, ref .. ' jobs', 1)
  for i, what in ipairs({ 'items', 'tokens', 'device_us' }) do
    count_up(usage, ref .. ' ' .. what, tonumber(ARGV[at + i - 1]))
  end
end

local function finish(at)
  local _, id, state, code, meta, output = unpack(ARGV, at, at + 5)
  local job = fields(id, unpack(ENDING))
  local known, ended, canceled = job[1], job[1] and terminal[job[1]], job[18]
  if output ~= '' and (not known or ended or canceled) then free_stored(output, now) end
  if not known then
    if not redis.call('SET', OUTCOME .. id, meta, 'PX', ttl_ms, 'NX') then return { 0, '' } end
    redis.call('PUBLISH', OUTCOME .. id, meta)
    return { 1, state }
  end
  if ended then return { 0, known } end
  if canceled then
    state, code = 'canceled', 'canceled'
    meta = revoked_meta(id, 'canceled', 'canceled', 'the job was canceled', iso)
  end
  end_job(id, state, code, meta, job)
  ends[COUNTERS .. job[2]] = (ends[COUNTERS .. job[2]] or 0) + 1
  local owner = named(job[10])
  if owner ~= '' and ARGV[at + 6] ~= '' then use(owner, job[2], at + 6) end
  -- Of a batch's line as long as the batch.
  if output ~= '' and not canceled then expire_at(output, (job[14] and tonumber(job[16]) or now) + tonumber(job[4])) end
  return { 1, state }
end

local replies = {}
for at = 3, #ARGV, EACH do
  local done, reply = pcall(finish, at)
  if done and ARGV[at] ~= '' then forgotten[#forgotten + 1] = ARGV[at] end
  replies[#replies + 1] = done and reply or failure(reply)
end
forget_messages(forgotten)
for counters, jobs in pairs(ends) do pcall(measure, counters, jobs) end
write_counts()
for usage in pairs(used) do redis.call('PEXPIRE', usage, USAGE_TTL_MS) end
return replies
