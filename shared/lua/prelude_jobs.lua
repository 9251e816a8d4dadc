-- Behind prelude_webhooks.lua, linked in where it is used: how a job begins, how it ends, and what is known of a queue
-- between the two.

-- What `end_job` needs of a record, and behind it what decides how a job ends.
local ENDING = { 'state', 'ref', 'size', 'ttl_ms', 'waiters', 'payloads', 'idem', 'delayed', 'created_at', 'owner',
  'stored', 'files', 'webhook', 'batch', 'line', 'deadline_at', 'runner', 'canceled' }

-- The one place where a job's outcome is written. The caller has checked that there is none yet; `job`: its fields
-- `ENDING`, if he has read them. What can fail of a record that a hand has been at fails before anything is written.
local function end_job(id, state, code, meta, job)
  local key = JOB .. id
  job = job or fields(id, unpack(ENDING))
  local ttl, counters, bytes, took = job[4] + 0, COUNTERS .. job[2], -job[3], now - job[9]
  -- The lines of a batch are read together: the first is there still when the last has ended.
  if job[14] then ttl = math.max(1, tonumber(job[16]) + ttl - now) end
  local kept = ttl
  local hash = job[13] and notify('job', key, id, state)
  if hash then
    -- Until its delivery was tried once: its body is made of them (see delivered.lua).
    kept = ttl + HOOK_TTL_MS
    redis.call('HSET', hash, 'until', now + ttl)
  end
  local told = { 'state', state, 'finished_at', now }
  local function tell_also(name, value)
    told[#told + 1] = name
    told[#told + 1] = value
  end
  if code ~= '' then tell_also('code', code) end
  if job[17] then tell_also('runner', '') end -- nobody's
  redis.call('HSET', key, unpack(told))
  redis.call('PEXPIRE', key, kept)
  redis.call('SET', OUTCOME .. id, meta, 'PX', kept)
  overdue_no_more[#overdue_no_more + 1] = id
  count_up(counters, job[8] and 'delayed' or job[1], -1)
  if job[1] == 'queued' and not job[8] then unqueued[counters] = true end
  count_up(counters, 'bytes', bytes)
  count_up(counters, state, 1)
  count_owned(named(job[10]), job[2], -1, bytes)
  -- How long a batch's line takes tells how many are before it, and nothing of how the service is.
  if state == 'succeeded' and not job[14] then record_latency(counters, took) end
  if job[8] then
    redis.call('HDEL', DELAYED, id)
    redis.call('ZREM', DUE, id)
  end
  for n = 0, tonumber(job[6] or '0') - 1 do
    -- A failed job's input is kept as long as its outcome, for a retry from the dead letters.
    if state == 'failed' then redis.call('PEXPIRE', PAYLOAD .. id .. ':' .. n, ttl)
    else redis.call('UNLINK', PAYLOAD .. id .. ':' .. n) end
  end
  each_word(job[11], function(ref)
    if state == 'failed' then expire_at(ref, now + ttl) else free_stored(ref, now) end
  end)
  each_word(job[12], function(file)
    if state == 'failed' then keep_file(file, now + ttl) end
    release_file(file, now)
  end)
  if job[7] then redis.call('PEXPIRE', IDEMPOTENCY .. job[7], ttl) end
  -- A large outcome is not copied to each waiter: it gets the id and reads.
  local news = id .. '\n' .. now .. '\n' .. state .. '\n' .. (#meta <= 65536 and meta or '')
  for channel in string.gmatch(job[5] or '', '[^\n]+') do redis.call('PUBLISH', channel, news) end
  redis.call('PUBLISH', OUTCOME .. id, meta)
  if job[14] then line_ended(job[14], job[15], job[1], state, -bytes) end
end

-- Nobody else's jobs keep a key out that has less than an equal share of the queue: the owners there are, and one for
-- all that came without a key.
local function has_share(owner, ref, size, max_jobs, max_bytes)
  if owner == '' then return false end
  local own = redis.call('HMGET', OWNED .. ref, owner, owner .. ':bytes')
  local shares = redis.call('HLEN', OWNED .. ref) / 2 + (own[1] and 1 or 2)
  return (tonumber(own[1] or '0') + 1) * shares <= max_jobs
    and (tonumber(own[2] or '0') + size) * shares <= max_bytes
end

-- What a key has under way of all versions of one model (each ref followed by a newline).
local function active_on(owner, refs)
  local active = 0
  for version in string.gmatch(refs, '[^\n]+') do
    active = active + counts_now(OWNED .. version, owner)[1]
  end
  return active
end

-- What is told of a job beside its end goes to those who listen to all of it.
local function tell(listeners, id, what, text)
  local news = id .. '\n' .. now .. '\n' .. what .. '\n' .. text
  for channel in string.gmatch(listeners, '[^\n]+') do redis.call('PUBLISH', channel, news) end
end

-- How fast a version's queue is served, measured only while others wait (an idle queue tells how fast jobs come, not how
-- fast they could go): `served` jobs have ended in `busy_ms`, `mark` is the last end. Old ends lose weight. `ends` have
-- ended now.
local function measure(counters, ends)
  local seen = redis.call('HMGET', counters, 'queued', unpack(MEASURE))
  if (tonumber(seen[1]) or 0) + counted(counters, 'queued') <= 0 then
    if seen[2] or seen[3] or seen[4] then redis.call('HDEL', counters, unpack(MEASURE)) end
    return
  end
  local mark, busy, served = tonumber(seen[2] or now), tonumber(seen[3] or '0'), tonumber(seen[4] or '0')
  -- The batch whose first end began the measure took its time before it.
  if busy > 0 or now > mark then served = served + ends end
  busy = busy + now - mark
  if busy > 10000 and served > 64 then busy, served = busy / 2, served / 2 end
  redis.call('HSET', counters, 'mark', now, 'busy_ms', busy, 'served', served)
end

-- Versions whose counters were looked at in this script.
local serving = {}

-- A job of it is queued no more, and runs. Where nobody served its queue until now, how long is no measure of its speed.
local function count_started(ref)
  local counters = COUNTERS .. ref
  if not serving[ref] then
    serving[ref] = true
    local seen = redis.call('HMGET', counters, 'running', 'mark')
    if (tonumber(seen[1]) or 0) <= 0 and seen[2] and now - seen[2] > 10000 then
      redis.call('HSET', counters, 'mark', now - 10000)
    end
  end
  count_up(counters, 'queued', -1)
  count_up(counters, 'running', 1)
end

-- `solo`: as in claim.lua.
local function start_job(key, attempt, worker, name, solo)
  redis.call('HSET', key, 'state', 'running', 'attempt', attempt, 'runner', worker, 'worker', name, 'solo', solo,
    'started_at', now)
end

-- How long (ms) so many jobs take by that measure; 0 while too little was measured to tell.
local function time_for(busy, served, jobs)
  if busy < 1000 or served < 4 then return 0 end
  return math.floor(jobs * busy / served)
end

-- An owner's jobs by when they came, for its list of them. It lives as long as the last of them can be read: a job that
-- ends in the last moment can be for its TTL from then. (The minutes on top are for the next ones, which need not move
-- it.) Entries of records that are gone leave by chance: eight are looked at for every fourth job that comes, so there
-- are about as many of them as of the others at most.
local function index_job(id, owner, ends)
  local index = JOBS .. owner
  redis.call('ZADD', index, now, id)
  if redis.call('PEXPIRETIME', index) < ends then redis.call('PEXPIREAT', index, ends + 600000) end
  if time[2] % 4 > 0 then return end
  local some, records = redis.call('ZRANDMEMBER', index, -8), {}
  for i, one in ipairs(some) do records[i] = JOB .. one end
  if redis.call('EXISTS', unpack(records)) == #records then return end
  for i, record in ipairs(records) do
    if redis.call('EXISTS', record) == 0 then redis.call('ZREM', index, some[i]) end
  end
end

-- Of a new record's fields, as name, value, name, value: what its job uses of the payload store, whose it is, and of which
-- batch.
local function telling(more)
  local stored, files, owner, batch
  for i = 1, #more - 1, 2 do
    local name, value = more[i], more[i + 1]
    if name == 'stored' then stored = value
    elseif name == 'files' then files = value
    elseif name == 'owner' then owner = value
    elseif name == 'batch' then batch = value end
  end
  return stored, files, owner, batch
end

-- A new record, counted, due at `deadline` (ms), with its message pushed at the far end of its list; or, where `start`
-- (ms) is given and not yet, kept until then. (While it is, it is queued to its caller, and no part of the queue.)
-- `more`: further fields of the record as name, value, name, value.
local function begin_job(id, list, raw, ref, deadline, ttl_ms, size, more, start)
  local key, counters = JOB .. id, COUNTERS .. ref
  local later = start and start > now
  if later then more[#more + 1], more[#more + 2] = 'delayed', '1' end
  redis.call('HSET', key, 'state', 'queued', 'ref', ref, 'created_at', now, 'deadline_at', deadline,
    'ttl_ms', ttl_ms, 'size', size, 'attempt', 0, unpack(more))
  redis.call('PEXPIREAT', key, deadline + ttl_ms)
  redis.call('ZADD', DEADLINES, deadline, id)
  redis.call('HINCRBY', counters, 'bytes', size)
  redis.call('HINCRBY', counters, later and 'delayed' or 'queued', 1)
  local stored, files, whose, batch = telling(more)
  local owner = named(whose)
  if owner ~= '' then
    redis.call('HINCRBY', ACTIVE, owner, 1)
    redis.call('HINCRBY', OWNED .. ref, owner, 1)
    redis.call('HINCRBY', OWNED .. ref, owner .. ':bytes', size)
  end
  if not batch then index_job(id, whose or ANONYMOUS, deadline + 2 * ttl_ms) end -- a batch lists its own
  if stored then each_word(stored, function(one) keep_until(one, deadline + ttl_ms) end) end
  if files then each_word(files, function(file) use_file(file, deadline + ttl_ms) end) end
  if later then
    redis.call('HSET', DELAYED, id, list .. '\n' .. raw)
    redis.call('ZADD', DUE, start, id)
  else
    push_far(list, owner, raw)
  end
end

-- Delayed jobs whose start has come go to their lists.
local function start_due()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 500)) do
    local kept = redis.call('HGET', DELAYED, id)
    redis.call('HDEL', DELAYED, id)
    redis.call('ZREM', DUE, id)
    local job = fields(id, 'ref', 'delayed')
    if kept and job[2] then
      redis.call('HDEL', JOB .. id, 'delayed')
      redis.call('HSET', JOB .. id, 'queued_at', now) -- what it waited before is no queue's fault
      count_up(COUNTERS .. job[1], 'delayed', -1)
      count_up(COUNTERS .. job[1], 'queued', 1)
      local newline = string.find(kept, '\n', 1, true)
      push_far(string.sub(kept, 1, newline - 1), owner_of(id), string.sub(kept, newline + 1))
    end
  end
end
