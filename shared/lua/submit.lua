#!lua flags=no-cluster
-- Accept a job: idempotency, limits, record, waiter and message in one step. Refused at maxmemory on purpose.
-- A job that could not begin before its deadline, by the measured speed of its queue, is refused: `late`.
-- KEYS  none: all keys are named by the id
-- ARGV  1 id, 2 list, 3 raw message, 4 ref, 5 deadline (ms from now), 6 result TTL (ms), 7 size (bytes),
--       8 max jobs, 9 max bytes, 10 waiter's channel or '', 11 idempotency scope or '', 12 fingerprint,
--       13 the lists of its queue that are served before this job's own, 14 those served after it (each list
--       followed by a newline), 15 the registry's etag that the version was chosen by, 16 the owner where it has a lane
--       or '', 17 its weight, 18 how many jobs it may have under way and 19 how many of this version's model (0: any
--       number), 20 the versions of that model (each ref followed by a newline), 21... more record fields as name,
--       value pairs
-- RETURNS {'accepted', id, created_at, deadline_at} | {'existing', id} | {'mismatch', id}
--         | {'busy', 'concurrent' or 'model_concurrent', how many it has under way}
--         | {'gone', reference or file} (of the fields `stored` and `files`, what a job cannot have any more)
--         | {'outdated'} (choose again) | {'full', jobs, bytes, ms until they are done (0: not known)} | {'late', ms until its turn}
local id, ref, channel, idem = ARGV[1], ARGV[4], ARGV[10], ARGV[11]
local size, owner, weight = tonumber(ARGV[7]), ARGV[16], tonumber(ARGV[17])
if idem ~= '' then
  local seen = redis.call('GET', IDEMPOTENCY .. idem)
  if seen then
    local first, fingerprint = string.match(seen, '^(%S+) (%S+)$')
    if redis.call('EXISTS', JOB .. first) == 1 then
      return { fingerprint == ARGV[12] and 'existing' or 'mismatch', first }
    end
  end
elseif redis.call('EXISTS', JOB .. id) == 1 then
  return { 'existing', id }
end
if outdated(ARGV[15]) then return { 'outdated' } end
local more = { unpack(ARGV, 21) }
local stored, files = telling(more)
if stored or files then
  local lost = missing_stored(stored, files, now)
  if lost then return { 'gone', lost } end
end
local counters = redis.call('HMGET', COUNTERS .. ref, 'queued', 'running', 'bytes', 'busy_ms', 'served')
for i = 1, 5 do counters[i] = tonumber(counters[i] or '0') end
local queued, running, bytes = counters[1], counters[2], counters[3]
local jobs = queued + running
local max_jobs, max_bytes = tonumber(ARGV[8]), tonumber(ARGV[9])
local most, most_here = tonumber(ARGV[18]), tonumber(ARGV[19])
if most > 0 then
  local active = tonumber(redis.call('HGET', ACTIVE, owner) or '0')
  if active >= most then return { 'busy', 'concurrent', active } end
end
if most_here > 0 then
  local active = active_on(owner, ARGV[20])
  if active >= most_here then return { 'busy', 'model_concurrent', active } end
end
if (jobs >= max_jobs or (jobs > 0 and bytes + size > max_bytes))
  and not has_share(owner, ref, size, max_jobs, max_bytes) then
  return { 'full', jobs, bytes, time_for(counters[4], counters[5], jobs) }
end
-- Where all of them are done before its deadline, it matters not which are ahead.
if queued > 0 and time_for(counters[4], counters[5], jobs) > tonumber(ARGV[5]) then
  local function waiting_in(lists)
    local length = 0
    for list in string.gmatch(lists, '[^\n]+') do length = length + length_of(list) end
    return length
  end
  -- Never more than what is surely ahead: the lists hold what has ended meanwhile too, and of what workers hold
  -- already, the most urgent job overtakes an unknown part.
  local ahead
  if redis.call('EXISTS', TURNS .. ARGV[2]) == 1 or owner ~= '' then
    -- Its own lane, and of each other as many as have their turn meanwhile.
    local own = lane_of(ARGV[2], owner)
    local before = redis.call('LLEN', own)
    ahead = before
    for _, lane in ipairs(lanes(ARGV[2])) do
      if lane ~= own then ahead = ahead + math.min(redis.call('LLEN', lane), math.floor(before / weight)) end
    end
    ahead = ahead + waiting_in(ARGV[13])
  else
    ahead = waiting_in(ARGV[13] .. ARGV[2])
    if ARGV[13] ~= '' then ahead = math.max(ahead, queued - waiting_in(ARGV[14])) end
  end
  local turn = time_for(counters[4], counters[5], math.min(ahead, queued) + running)
  if turn > tonumber(ARGV[5]) then return { 'late', turn } end
end
if channel ~= '' then more[#more + 1], more[#more + 2] = 'waiters', channel end
if idem ~= '' then more[#more + 1], more[#more + 2] = 'idem', idem end
local deadline = now + tonumber(ARGV[5])
begin_job(id, ARGV[2], ARGV[3], ref, deadline, tonumber(ARGV[6]), size, more)
if idem ~= '' then
  redis.call('SET', IDEMPOTENCY .. idem, id .. ' ' .. ARGV[12], 'PXAT', deadline + tonumber(ARGV[6]))
end
return { 'accepted', id, now, deadline }
