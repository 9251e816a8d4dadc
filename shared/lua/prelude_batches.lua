-- Behind prelude_jobs.lua, linked in where it is used. A batch's lines lie in LINES until they begin; then each is a job of
-- its own, made by `feed`, and so many at a time that a batch fills no queue. Whatever ends a line begins the next in the
-- same step. A line that has not begun has no keys of its own: what becomes of it stands in the batch's record.
--   total, fed (how many have begun, or were refused before one that has), running, succeeded, failed, canceled, refused
--   (of the failed: they did not fit), done (of those that have run), cut (why the rest never begins), open_bytes

-- Of a record, as HMGET.
local function batch_fields(id, ...)
  local values = redis.pcall('HMGET', BATCH .. id, ...)
  return values.err and {} or values
end

local function schedule(id, ref, at) redis.call('ZADD', BATCHES, at, id .. ' ' .. ref) end

-- Who waits for the batch. (News are of jobs: `completed` is told as the state that it has for these.)
local function tell_waiters(id, state)
  local news = id .. '\n' .. now .. '\n' .. (state == 'canceled' and state or 'succeeded') .. '\n'
  for channel in string.gmatch(batch_fields(id, 'waiters')[1] or '', '[^\n]+') do
    redis.call('PUBLISH', channel, news)
  end
end

-- Its last line has ended: the one place where a batch's end is written.
local function batch_ended(id, ref, state)
  if state ~= 'canceled' then state = 'completed' end
  redis.call('HSET', BATCH .. id, 'state', state, 'finished_at', now, 'running', 0)
  redis.call('HDEL', BATCH .. id, 'template', 'head', 'tail', 'line_fields', 'refs')
  redis.call('SREM', BATCHES_ON .. ref, id)
  if batch_fields(id, 'webhook')[1] then notify('batch', BATCH .. id, id, state) end
  if redis.call('EXISTS', LINES .. id) == 0 then redis.call('ZREM', BATCHES, id .. ' ' .. ref) end
  tell_waiters(id, state)
end

local function end_if_done(id)
  local batch = batch_fields(id, 'total', 'succeeded', 'failed', 'canceled', 'state', 'ref', 'finished_at')
  if not batch[1] or batch[7] then return end
  local ended = 0
  for i = 2, 4 do ended = ended + tonumber(batch[i] or '0') end
  if ended >= tonumber(batch[1]) then batch_ended(id, batch[6], batch[5]) end
end

-- What decides how many lines begin, of a batch that may begin some.
local function read_for_room(id)
  local names = { 'window', 'max_jobs', 'max_bytes', 'concurrent', 'model_concurrent', 'deadline_at', 'ttl_ms',
    'open_bytes' }
  local batch, values = {}, batch_fields(id, 'ref', 'owner', 'refs', 'cut', unpack(names))
  batch.ref, batch.owner, batch.refs = values[1], named(values[2]), values[3]
  for i, name in ipairs(names) do batch[name] = tonumber(values[4 + i] or '0') end
  if batch.ref and not values[4] and batch.deadline_at > now then return batch end
end

-- How many more of its lines may be in the queue, and their bytes in all: its window, no more than its part of half of
-- the queue, and no more than half of what its key may have under way (but always one), so that the key's own jobs are
-- not refused for it. A few at a time, for what is read once for all of them.
local function room_for_lines(batch, open)
  local batches = math.max(1, redis.call('SCARD', BATCHES_ON .. batch.ref))
  local most = math.min(batch.window, math.max(1, math.floor(batch.max_jobs / 2 / batches)))
  local room = most - open
  local function within(limit, active)
    if limit == 0 then return end
    local half = math.max(math.floor(limit / 2), 1)
    local more = half - active
    if open == 0 and active < limit then more = math.max(more, 1) end
    room, most = math.min(room, more), math.min(most, half)
  end
  if batch.owner ~= '' then
    within(batch.concurrent, counts_now(ACTIVE, batch.owner)[1])
    if batch.model_concurrent > 0 then within(batch.model_concurrent, active_on(batch.owner, batch.refs)) end
  end
  if open > 0 and room < math.min(16, math.ceil(most / 8)) then return 0 end
  return room, math.floor(batch.max_bytes / 2 / batches)
end

-- An entry of LINES: line, bytes of the input, items (empty: 1), JSON pointers of its payloads (empty: none), what of them
-- lies in the payload store (JSON; empty: nothing), and the input as base64.
local function read_entry(entry)
  local line, size, items, pointers, beside, input =
    string.match(entry, '^(%d+)\n(%d+)\n(%d*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  local read = { line = line, size = tonumber(size), items = items, pointers = pointers, input = input, payloads = 0 }
  if pointers ~= '' then read.payloads = #cjson.decode(pointers) end
  if beside ~= '' then
    read.beside = cjson.decode(beside)
    for _ in pairs(read.beside.refs) do read.payloads = read.payloads - 1 end
  end
  return read
end

local function begin_line(id, batch, entry)
  local read = read_entry(entry)
  local job, beside = id .. '-' .. read.line, read.beside
  local told = read.pointers == '' and '[]' or read.pointers
  if beside then told = told .. ',"ml_stored":' .. cjson.encode(beside.refs) end
  if read.items ~= '' then told = told .. ',"ml_items":' .. read.items end
  local raw = string.gsub(batch.template, '\1(%a)', {
    i = job,
    v = beside and batch.wire_stored or batch.wire_plain,
    p = told,
    b = batch.head .. read.input .. batch.tail,
  })
  local more = cjson.decode(batch.line_fields)
  local function add(name, value)
    more[#more + 1] = name
    more[#more + 1] = value
  end
  add('line', read.line)
  if read.items ~= '' then add('items', read.items) end
  add('payloads', read.payloads)
  if beside then
    if beside.stored ~= '' then add('stored', beside.stored) end
    if beside.files ~= '' then add('files', beside.files) end
    add('stored_bytes', beside.bytes)
  end
  redis.call('SADD', OPEN .. id, read.line)
  redis.call('HSET', BATCH .. id, 'fed', read.line + 1)
  redis.call('HINCRBY', BATCH .. id, 'open_bytes', read.size)
  begin_job(job, batch.list, raw, batch.ref, batch.deadline_at, batch.ttl_ms, read.size, more)
  if beside then each_word(beside.files, function(file) release_file(file, now) end) end -- the batch's hold on it
end

-- Lines begin, as many as there is room for, `most` at most. How many did.
local function feed(id, most)
  local batch = redis.call('EXISTS', LINES .. id) == 1 and read_for_room(id)
  if not batch then return 0 end
  local open = redis.call('SCARD', OPEN .. id)
  local room, own_bytes = room_for_lines(batch, open)
  if room <= 0 then return 0 end
  local names = { 'list', 'template', 'head', 'tail', 'line_fields', 'wire_plain', 'wire_stored' }
  for i, value in ipairs(batch_fields(id, unpack(names))) do batch[names[i]] = value end
  local fed, bytes = 0, batch.open_bytes
  while fed < math.min(room, most) do
    local entry = redis.call('LINDEX', LINES .. id, -1)
    if not entry then break end
    local size = tonumber(string.match(entry, '^%d+\n(%d+)'))
    local counts = counts_now(COUNTERS .. batch.ref, 'queued', 'running', 'bytes')
    local jobs, all_bytes = counts[1] + counts[2], counts[3]
    local full = jobs >= batch.max_jobs or (jobs > 0 and all_bytes + size > batch.max_bytes)
    if full then write_counts() end -- `has_share` reads them
    if (open + fed > 0 and bytes + size > own_bytes)
      or (full and not has_share(batch.owner, batch.ref, size, batch.max_jobs, batch.max_bytes)) then
      break
    end
    redis.call('RPOP', LINES .. id)
    begin_line(id, batch, entry)
    fed, bytes = fed + 1, bytes + size
  end
  if fed > 0 then
    redis.call('PEXPIREAT', OPEN .. id, batch.deadline_at + batch.ttl_ms)
    if redis.call('EXISTS', LINES .. id) == 1 then
      redis.call('PEXPIREAT', LINES .. id, batch.deadline_at + batch.ttl_ms)
    end
  end
  return fed
end

-- Of a job that is a line. One that comes twice, or after its batch's keys, changes nothing.
line_ended = function(id, line, was, state, size)
  if redis.call('SREM', OPEN .. id, line) == 0 or redis.call('EXISTS', BATCH .. id) == 0 then return end
  local key = BATCH .. id
  redis.call('HINCRBY', key, state, 1)
  redis.call('HINCRBY', key, 'open_bytes', -size)
  if was == 'running' then redis.call('HINCRBY', key, 'running', -1) end
  -- The rate is that of the last ten to twenty seconds: since the mark before the last.
  local done = redis.call('HINCRBY', key, 'done', was == 'running' and 1 or 0)
  local mark = batch_fields(id, 'mark_at', 'mark')
  if mark[1] and now - tonumber(mark[1]) >= 10000 then
    redis.call('HSET', key, 'before_at', mark[1], 'before', mark[2], 'mark_at', now, 'mark', done)
  end
  feed(id, 64)
  end_if_done(id)
end

local function line_started(id)
  local batch = batch_fields(id, 'state')
  if not batch[1] then return end
  redis.call('HINCRBY', BATCH .. id, 'running', 1)
  if batch[1] == 'queued' then
    redis.call('HSET', BATCH .. id, 'state', 'running', 'started_at', now, 'mark_at', now, 'mark', 0)
  end
end

local function line_back(id)
  if redis.call('EXISTS', BATCH .. id) == 1 then redis.call('HINCRBY', BATCH .. id, 'running', -1) end
end

-- Lines that will not begin, and their payloads: `most` of them. How many have gone.
local function drop_lines(id, most)
  local entries = redis.call('RPOP', LINES .. id, most) or {}
  for _, entry in ipairs(entries) do
    local read = read_entry(entry)
    for n = 0, read.payloads - 1 do redis.call('UNLINK', PAYLOAD .. id .. '-' .. read.line .. ':' .. n) end
    if read.beside then
      each_word(read.beside.stored, function(ref) free_stored(ref, now) end)
      each_word(read.beside.files, function(file) release_file(file, now) end)
    end
  end
  return #entries
end

-- No further line begins: those that have not end now, as `canceled` or `deadline_exceeded`, in one step however many
-- they are. Their payloads go in slices (`drop_lines`). How many lines that is.
local function cut_lines(id, code)
  local batch = batch_fields(id, 'payloads', 'ref', 'cut')
  if batch[3] then return 0 end
  local left = redis.call('LLEN', LINES .. id)
  redis.call('HSET', BATCH .. id, 'cut', code, 'cut_at', now)
  redis.call('HINCRBY', BATCH .. id, code == 'canceled' and 'canceled' or 'failed', left)
  if tonumber(batch[1] or '0') == 0 then redis.call('UNLINK', LINES .. id) end
  schedule(id, batch[2], now)
  return left
end
