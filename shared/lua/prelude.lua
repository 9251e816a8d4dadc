-- Put in front of every script by shared/calls.py, after stored.lua and the constants of shared/keys.py (JOB, OUTCOME,
-- PAYLOAD, OBJECT, STORED, DOOMED, FILE, FILES, IDEMPOTENCY, COUNTERS, DEADLINES, JOBS, UNACKED, HOLDERS, LEASES,
-- DELAYED, DUE, BEAT, LANE, TURNS, OWNED, ACTIVE, USAGE, USAGE_TTL_MS, ANONYMOUS, CELERY, DEAD, WORKER, WORKERS,
-- REGISTRY, PAUSED, PARKED, PARKED_TTL_MS, LATENCY_BOUNDS, WEBHOOKS, HOST, HOOK, HOOK_OFF, HOOK_TTL_MS,
-- HOOK_OFF_TTL_MS, HOOK_COUNTS, HOOK_SECRETS).
-- Time is Redis TIME in ms, never a host's clock.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Of a version's counters: how fast its queue is served (see `measure`).
local MEASURE = { 'mark', 'busy_ms', 'served' }

local line_ended -- prelude_batches.lua

local terminal = { succeeded = true, failed = true, canceled = true }

-- Of a job's record, as HMGET. A key that is no hash (somebody's hand) is no record: it must not end a script that is
-- about other jobs too.
local function fields(id, ...)
  local values = redis.pcall('HMGET', JOB .. id, ...)
  return values.err and {} or values
end

-- Fairness between keys, by start-time fair queuing (Goyal, Vin, Cheng 1996, https://doi.org/10.1145/248156.248171):
-- the jobs of a key lie in a lane of its own beside their list, and the lanes take turns. The score of an owner in TURNS
-- is the items it was served, divided by its weight; the lowest is next. Jobs without a key, and plain Celery's, lie in
-- the list itself, which takes turns as the owner ''.
local function named(owner)
  if not owner or owner == ANONYMOUS or owner == CELERY then return '' end
  return owner
end

local function owner_of(id)
  return named(fields(id, 'owner')[1])
end

local function lane_of(list, owner)
  return owner == '' and list or LANE .. list .. ':' .. owner
end

-- An owner that had nothing waiting begins at the end of the round: before it, each other is served once at most, and
-- who comes back again and again with one job is served no more often than the others.
local function join_turns(list, owner)
  local turns = TURNS .. list
  if redis.call('ZSCORE', turns, owner) then return end
  local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
  redis.call('ZADD', turns, (tonumber(first[2]) or 0) + 1, owner)
end

local function push_far(list, owner, raw)
  if owner ~= '' then join_turns(list, owner) end
  redis.call('LPUSH', lane_of(list, owner), raw)
end

local function push_near(list, id, raw)
  local owner = owner_of(id)
  if owner ~= '' then join_turns(list, owner) end
  redis.call('RPUSH', lane_of(list, owner), raw)
end

-- All lists that lie in the place of one: itself, and the lanes.
local function lanes(list)
  local all = { list }
  for _, owner in ipairs(redis.call('ZRANGE', TURNS .. list, 0, -1)) do
    if owner ~= '' then all[#all + 1] = lane_of(list, owner) end
  end
  return all
end

local function length_of(list)
  local length = 0
  for _, lane in ipairs(lanes(list)) do length = length + redis.call('LLEN', lane) end
  return length
end

-- The caller has chosen a version by a registry that is not the one any more: it may choose another one now.
local function outdated(etag)
  return (redis.call('HGET', REGISTRY, 'etag') or '') ~= etag
end

-- The models that workers start no job of, by name.
local function paused_models()
  local paused = {}
  for _, model in ipairs(redis.call('HKEYS', PAUSED)) do paused[model] = true end
  return paused
end

local function field(id, name)
  return fields(id, name)[1]
end

local function count(id, name, by)
  local ref = field(id, 'ref')
  if ref then redis.call('HINCRBY', COUNTERS .. ref, name, by) end
end

-- A message that is newer than its taker understands waits aside for those who do. Whether it is.
local function parked(list, raw, headers, known)
  local version = type(headers) == 'table' and tonumber(headers.ml)
  if not version or version <= known then return false end
  local aside = list .. PARKED .. version
  redis.call('LPUSH', aside, raw)
  redis.call('PEXPIRE', aside, PARKED_TTL_MS)
  return true
end

local function forget_message(tag)
  redis.call('HDEL', UNACKED, tag)
  redis.call('HDEL', HOLDERS, tag)
  redis.call('ZREM', LEASES, tag)
end

-- A message that nobody can work on is kept, with what a human and a retry need of its record. Call it after
-- `end_job`: from now on the payloads live as long as the letter, not as long as the outcome.
local function dead_letter(reason, id, list, raw)
  local key = JOB .. id
  local names = { 'ref', 'payloads', 'dead_ttl_ms', 'attempt', 'crashes', 'worker', 'size', 'ttl_ms', 'timeout_ms',
    'labels', 'owner', 'items', 'weight', 'stored', 'files', 'stored_bytes', 'webhook' }
  local job = fields(id, unpack(names))
  local letter = { 'reason', reason, 'id', id, 'list', list, 'raw', raw }
  for i, name in ipairs(names) do
    if job[i] then
      letter[#letter + 1] = name
      letter[#letter + 1] = job[i]
    end
  end
  local number = redis.call('XADD', DEAD, 'MAXLEN', '~', '100000', '*', unpack(letter))
  if not job[1] then return end
  redis.call('HSET', key, 'letter', number)
  if not job[3] then return end -- plain Celery's jobs have no payloads
  for n = 0, tonumber(job[2]) - 1 do redis.call('PEXPIRE', PAYLOAD .. id .. ':' .. n, job[3]) end
  local at = now + tonumber(job[3])
  each_word(field(id, 'stored'), function(ref) keep_until(ref, at) end)
  each_word(field(id, 'files'), function(file) keep_file(file, at) end)
end

-- Celery's shape for a job that ended without an answer of the model's.
local function revoked_meta(id, reason, code, message, iso)
  return '{"status":"REVOKED","result":{"exc_type":"TaskRevokedError","exc_message":[' .. cjson.encode(reason)
    .. '],"exc_module":"celery.exceptions"},"traceback":null,"children":[],"date_done":' .. cjson.encode(iso)
    .. ',"task_id":' .. cjson.encode(id) .. ',"ml":{"error":{"code":' .. cjson.encode(code)
    .. ',"message":' .. cjson.encode(message) .. '}}}'
end

-- Celery's shape for a failure that no worker lived to write.
local function failed_meta(id, code, message, iso)
  return '{"status":"FAILURE","result":{"exc_type":' .. cjson.encode(code) .. ',"exc_message":['
    .. cjson.encode(message) .. '],"exc_module":"ml_service"},"traceback":null,"children":[],"date_done":'
    .. cjson.encode(iso) .. ',"task_id":' .. cjson.encode(id) .. ',"ml":{"error":{"code":' .. cjson.encode(code)
    .. ',"message":' .. cjson.encode(message) .. '}}}'
end

-- Of a version's counters: succeeded jobs by the time from their submit to their end, in buckets named by their upper
-- bound (ms), and the sum. shared/keys.py has the bounds.
local function record_latency(counters, ms)
  local bucket = 'inf'
  for bound in string.gmatch(LATENCY_BOUNDS, '%d+') do
    if ms <= tonumber(bound) then
      bucket = bound
      break
    end
  end
  redis.call('HINCRBY', counters, 'le:' .. bucket, 1)
  redis.call('HINCRBY', counters, 'latency_ms', ms)
end

-- What a key has under way, in all and of a version: for its limits and its share of a full queue.
local function count_owned(owner, ref, jobs, bytes)
  if owner == '' then return end
  if redis.call('HINCRBY', ACTIVE, owner, jobs) <= 0 then redis.call('HDEL', ACTIVE, owner) end
  local owned = OWNED .. ref
  local left = redis.call('HINCRBY', owned, owner, jobs)
  redis.call('HINCRBY', owned, owner .. ':bytes', bytes)
  if left <= 0 then redis.call('HDEL', owned, owner, owner .. ':bytes') end
end

-- Webhooks: a delivery is one event of a job (or a batch) on its way to the URL that asked for it. It lies by its due time
-- in a sorted set of its host; WEBHOOKS has the hosts, by their first, so that one that is slow holds up no other.
local function set_due(host, delivery, at)
  if at then redis.call('ZADD', HOST .. host, at, delivery) else redis.call('ZREM', HOST .. host, delivery) end
  local first = redis.call('ZRANGE', HOST .. host, 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', WEBHOOKS, first[2], host) else redis.call('ZREM', WEBHOOKS, host) end
end

-- The one place where a delivery begins: `event` of the record `key` of a 'job' or 'batch' is due now, if its webhook
-- wants it. Returns the delivery's key, or nil. Call it where the record is known to have a webhook.
local function notify(kind, key, id, event)
  local names = { 'owner', 'request_id', 'traceparent', 'tracestate' }
  local record = redis.call('HMGET', key, 'webhook', kind == 'batch' and 'caller' or 'owner', unpack(names, 2))
  local readable, hook = pcall(cjson.decode, record[1] or '')
  if not (readable and type(hook) == 'table' and type(hook.events) == 'table' and type(hook.url) == 'string'
    and type(hook.host) == 'string') then return nil end -- a hand's
  local wanted = false
  for _, name in ipairs(hook.events) do wanted = wanted or name == event end
  local delivery = 'msg_' .. id .. '_' .. event
  local hash = HOOK .. delivery
  if not wanted or redis.call('EXISTS', hash) == 1 then return nil end
  local told = { 'kind', kind, 'of', id, 'event', event, 'at', now, 'url', hook.url, 'host', hook.host, 'state', 'due',
    'tries', 0, 'next_at', now }
  for i, name in ipairs(names) do
    if record[i + 1] then
      told[#told + 1] = name
      told[#told + 1] = record[i + 1]
    end
  end
  redis.call('HSET', hash, unpack(told))
  redis.call('PEXPIRE', hash, HOOK_TTL_MS)
  set_due(hook.host, delivery, now)
  redis.call('PUBLISH', WEBHOOKS, delivery)
  return hash
end

-- Where it is noted that an owner's receiver has answered 410.
local function hook_off(owner, url)
  return HOOK_OFF .. (owner or '') .. ':' .. redis.sha1hex(url)
end

-- The body of a delivery is made, or never will be: its job lives as long as any from now on.
local function release(hash)
  local held = redis.call('HMGET', hash, 'of', 'until')
  if not held[2] then return end
  redis.call('PEXPIREAT', JOB .. held[1], held[2])
  redis.call('PEXPIREAT', OUTCOME .. held[1], held[2])
  redis.call('HDEL', hash, 'until')
end

-- No attempt more, unless somebody asks for one.
local function end_delivery(delivery, host, state)
  local hash = HOOK .. delivery
  redis.call('HSET', hash, 'state', state)
  redis.call('HDEL', hash, 'next_at', 'holder')
  redis.call('PEXPIRE', hash, HOOK_TTL_MS)
  set_due(host, delivery, nil)
  release(hash)
end

-- The one place where a job's outcome is written. The caller has checked that there is none yet.
local function end_job(id, state, code, meta)
  local key = JOB .. id
  local job = fields(id, 'state', 'ref', 'size', 'ttl_ms', 'waiters', 'payloads', 'idem', 'delayed',
    'created_at', 'owner', 'stored', 'files', 'webhook', 'batch', 'line', 'deadline_at')
  local ttl = tonumber(job[4])
  -- The lines of a batch are read together: the first is there still when the last has ended.
  if job[14] then ttl = math.max(1, tonumber(job[16]) + ttl - now) end
  local kept = ttl
  local hash = job[13] and notify('job', key, id, state)
  if hash then
    -- Until its delivery was tried once: its body is made of them (see delivered.lua).
    kept = ttl + HOOK_TTL_MS
    redis.call('HSET', hash, 'until', now + ttl)
  end
  redis.call('HSET', key, 'state', state, 'finished_at', now)
  if code ~= '' then redis.call('HSET', key, 'code', code) end
  redis.call('HDEL', key, 'runner')
  redis.call('PEXPIRE', key, kept)
  redis.call('SET', OUTCOME .. id, meta, 'PX', kept)
  redis.call('ZREM', DEADLINES, id)
  local counters = COUNTERS .. job[2]
  if job[8] then
    redis.call('HDEL', DELAYED, id)
    redis.call('ZREM', DUE, id)
  end
  local left = redis.call('HINCRBY', counters, job[8] and 'delayed' or job[1], -1)
  if job[1] == 'queued' and left <= 0 then redis.call('HDEL', counters, unpack(MEASURE)) end
  redis.call('HINCRBY', counters, 'bytes', -job[3])
  redis.call('HINCRBY', counters, state, 1)
  count_owned(named(job[10]), job[2], -1, -job[3])
  -- How long a batch's line takes tells how many are before it, and nothing of how the service is.
  if state == 'succeeded' and not job[11] then record_latency(counters, now - tonumber(job[9])) end
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
  if job[14] then line_ended(job[14], job[15], job[1], state, tonumber(job[3])) end
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
    active = active + tonumber(redis.call('HGET', OWNED .. version, owner) or '0')
  end
  return active
end

-- What is told of a job beside its end goes to those who listen to all of it.
local function tell(listeners, id, what, text)
  local news = id .. '\n' .. now .. '\n' .. what .. '\n' .. text
  for channel in string.gmatch(listeners, '[^\n]+') do redis.call('PUBLISH', channel, news) end
end

-- How fast a version's queue is served, measured only while others wait (an idle queue tells how fast jobs come, not how
-- fast they could go): `served` jobs have ended in `busy_ms`, `mark` is the last end. Old ends lose weight.
local function measure(counters)
  local seen = redis.call('HMGET', counters, 'queued', unpack(MEASURE))
  if tonumber(seen[1] or '0') <= 0 then
    redis.call('HDEL', counters, unpack(MEASURE))
    return
  end
  local mark, busy, served = tonumber(seen[2] or now), tonumber(seen[3] or '0'), tonumber(seen[4] or '0')
  -- The batch whose first end began the measure took its time before it.
  if busy > 0 or now > mark then served = served + 1 end
  busy = busy + now - mark
  if busy > 10000 and served > 64 then busy, served = busy / 2, served / 2 end
  redis.call('HSET', counters, 'mark', now, 'busy_ms', busy, 'served', served)
end

-- How long (ms) so many jobs take by that measure; 0 while too little was measured to tell.
local function time_for(counters, jobs)
  local seen = redis.call('HMGET', counters, 'busy_ms', 'served')
  local busy, served = tonumber(seen[1] or '0'), tonumber(seen[2] or '0')
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

-- A new record, counted, due at `deadline` (ms), with its message pushed at the far end of its list; or, where `start`
-- (ms) is given and not yet, kept until then. (While it is, it is queued to its caller, and no part of the queue.)
local function begin_job(id, list, raw, ref, deadline, ttl_ms, size, more, start)
  local key = JOB .. id
  redis.call('HSET', key, 'state', 'queued', 'ref', ref, 'created_at', now, 'deadline_at', deadline,
    'ttl_ms', ttl_ms, 'size', size, 'attempt', 0, unpack(more))
  redis.call('PEXPIREAT', key, deadline + ttl_ms)
  redis.call('ZADD', DEADLINES, deadline, id)
  redis.call('HINCRBY', COUNTERS .. ref, 'bytes', size)
  local job = fields(id, 'owner', 'batch', 'stored', 'files')
  local owner = named(job[1])
  count_owned(owner, ref, 1, size)
  if not job[2] then index_job(id, job[1] or ANONYMOUS, deadline + 2 * ttl_ms) end -- a batch lists its own
  each_word(job[3], function(stored) keep_until(stored, deadline + ttl_ms) end)
  each_word(job[4], function(file) use_file(file, deadline + ttl_ms) end)
  if start and start > now then
    redis.call('HSET', key, 'delayed', '1')
    redis.call('HINCRBY', COUNTERS .. ref, 'delayed', 1)
    redis.call('HSET', DELAYED, id, list .. '\n' .. raw)
    redis.call('ZADD', DUE, start, id)
  else
    redis.call('HINCRBY', COUNTERS .. ref, 'queued', 1)
    push_far(list, owner, raw)
  end
end

-- Of name, value pairs in ARGV from `first` on; nil: it is not among them.
local function given(first, name)
  for i = first, #ARGV - 1, 2 do
    if ARGV[i] == name then return ARGV[i + 1] end
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
      redis.call('HINCRBY', COUNTERS .. job[1], 'delayed', -1)
      redis.call('HINCRBY', COUNTERS .. job[1], 'queued', 1)
      local newline = string.find(kept, '\n', 1, true)
      push_far(string.sub(kept, 1, newline - 1), owner_of(id), string.sub(kept, newline + 1))
    end
  end
end
