-- Linked into the scripts that use it (shared/lua_linker.py), behind stored.lua. Names in capitals are constants of
-- shared/keys.py, as `_CONSTANTS` of shared/calls.py hands them on.
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

-- A message that is newer than its taker understands waits aside for those who do. Whether it is.
local function parked(list, raw, headers, known)
  local version = type(headers) == 'table' and tonumber(headers.ml)
  if not version or version <= known then return false end
  local aside = list .. PARKED .. version
  redis.call('LPUSH', aside, raw)
  redis.call('PEXPIRE', aside, PARKED_TTL_MS)
  return true
end

local function forget_messages(tags)
  if #tags == 0 then return end
  redis.call('HDEL', UNACKED, unpack(tags))
  redis.call('HDEL', HOLDERS, unpack(tags))
  redis.call('ZREM', LEASES, unpack(tags))
end

local function forget_message(tag)
  forget_messages({ tag })
end

-- A message that nobody can work on is kept, with what a human and a retry need of its record. Call it after
-- `end_job`: from now on the payloads live as long as the letter, not as long as the outcome.
local function dead_letter(reason, id, list, raw)
  local key = JOB .. id
  local names = { 'ref', 'payloads', 'dead_ttl_ms', 'attempt', 'crashes', 'worker', 'size', 'ttl_ms', 'timeout_ms',
    'labels', 'owner', 'items', 'weight', 'stored', 'files', 'stored_bytes', 'webhook', 'fallback_for' }
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
