#!lua flags=allow-oom,no-cluster
-- Messages leave their lists and are filed as unacked, under their holder, in the same step, so a worker that dies loses
-- none. Where keys have lanes beside a list (see the prelude) these take turns, each by its weight.
-- The LLENs are not only for the answer: with client-side tracking on, they subscribe this connection to the next change
-- of any of the lists, whoever pushes.
-- Of a paused model nothing is taken; that its pause is read here makes its end wake this connection.
-- A message of a newer version than this worker knows is parked for the workers that do: never failed, never a loop.
-- A worker need not ask for all of its lists each time: what it was not told of is as it was at the last look.
-- A job that is a list takes room for each of its items, so that one worker does not hold what keeps others busy; the
-- last one that is taken may have more of them than there is room for.
-- A worker that has nothing to do says so: if it takes one job only, of which there is nothing special to look at, that
-- starts in the same step, and need not be claimed.
-- KEYS  lists, the most urgent first; then what else is looked at here and must wake the worker (the lists' turns, the
--       registry, the pauses): before 7.2 Redis tracks of a script its KEYS alone, whatever it reads
-- ARGV  for each list: how many items there is room for, or -1: take none, and tell whether any wait; then the
--       worker's process id, the newest message version that it understands, and its name where one job may start ('':
--       none)
-- RETURNS {{the lists that may be taken from now and hold more}, {the others in which messages wait}, the registry's
--         etag (whose next change wakes the worker too), {the messages' tags}, {of the one job, if it was started, as a
--         claim: 'run', attempt, started_at, queued_at}, list, raw, list, raw, ...}
local lists = #ARGV - 3
local holder, known, name = ARGV[lists + 1], tonumber(ARGV[lists + 2]), ARGV[lists + 3]
local out = { {}, {}, redis.call('HGET', REGISTRY, 'etag') or '', {}, {} }

local paused = paused_models()

-- The lists of a paused model's versions: its name is in theirs (see `queue_name` in shared/keys.py).
local function is_paused(list)
  if next(paused) == nil then return false end
  local model = string.match(list, '^ml%.([^.]+)%.')
  return model and paused[(string.gsub(model, '%%2E', '.'))]
end

local taken = { unacked = {}, holders = {}, leases = {} }

-- So many are filed with one command of each kind.
local function file_taken()
  by_hundreds(taken.unacked, function(first, last)
    redis.call('HSET', UNACKED, unpack(taken.unacked, first, last))
    redis.call('HSET', HOLDERS, unpack(taken.holders, first, last))
    redis.call('ZADD', LEASES, unpack(taken.leases, first, last))
  end)
end

-- The tag under which it is to be filed, or nil; and the room that it takes.
local function read(list, raw)
  local readable, message = pcall(cjson.decode, raw)
  local properties = readable and type(message) == 'table' and message.properties
  local tag = type(properties) == 'table' and properties.delivery_tag
  local headers = readable and type(message) == 'table' and message.headers
  if parked(list, raw, headers, known) then
    return
  elseif type(tag) == 'string' and type(headers) == 'table' then
    local at = 2 * #out[4]
    taken.unacked[at + 1], taken.unacked[at + 2] = tag, list .. '\n' .. raw
    taken.holders[at + 1], taken.holders[at + 2] = tag, holder
    taken.leases[at + 1], taken.leases[at + 2] = now, tag
    out[4][at / 2 + 1] = tag
    out[at + 6], out[at + 7] = list, raw
    local items = headers.ml_items -- as `items_of` in shared/messages.py
    return tag, type(items) == 'number' and items > 1 and items or 1
  else
    dead_letter('unparsable', '', list, raw)
  end
end

-- What fails of one (the dead letters are no stream: somebody's hand) goes back, and the others are filed. RETURNS the room
-- that it takes, and its tag or nil
local failed
local function take(list, raw)
  local done, tag, items = pcall(read, list, raw)
  if done then return items or 1, tag end
  failed = tag
  redis.call('LPUSH', list, raw)
  return 1
end

-- So many are read with one command, and those of them that are taken leave with one.
local SOME = 16

local function take_in_order(list, room, length)
  while room > 0 and length > 0 do
    local some = redis.call('LRANGE', list, -math.min(SOME, length, math.ceil(room)), -1)
    local count = 0
    while count < #some and room > 0 do
      room = room - take(list, some[#some - count])
      count = count + 1
    end
    redis.call('LTRIM', list, 0, -1 - count)
    length = length - count
  end
end

-- What one message takes of its owner's share.
local function share(tag)
  local job = tag and fields(tag, 'items', 'weight') or {}
  return math.max(1, tonumber(job[1]) or 1) / math.max(1, tonumber(job[2]) or 1)
end

local function take_in_turns(list, room)
  local turns = TURNS .. list
  if redis.call('LLEN', list) > 0 then join_turns(list, '') end
  while room > 0 do
    local owner = redis.call('ZRANGE', turns, 0, 0)[1]
    if not owner then return end
    local raw = redis.call('RPOP', lane_of(list, owner))
    if raw then
      local items, tag = take(list, raw)
      redis.call('ZINCRBY', turns, share(tag), owner)
      room = room - items
    else -- only now: who leaves earlier would come back without what it has had
      redis.call('ZREM', turns, owner)
    end
  end
end

-- How many messages wait in the place of a list; whether keys have lanes beside it.
local function waiting(list)
  local turns = redis.call('EXISTS', TURNS .. list) == 1
  return turns and length_of(list) or redis.call('LLEN', list), turns
end

local function look()
  for i = 1, lists do
    local list, room = KEYS[i], tonumber(ARGV[i])
    if not is_paused(list) then
      local length, turns = waiting(list)
      if room > 0 and length > 0 then
        if turns then
          take_in_turns(list, room)
        else
          take_in_order(list, room, length)
        end
        length, turns = waiting(list) -- our own change has ended the tracking of it
      end
      if length > 0 then table.insert(out[room >= 0 and 1 or 2], list) end
      if turns and length == 0 then -- nobody competes: nobody owes
        redis.call('DEL', TURNS .. list)
        redis.call('EXISTS', TURNS .. list) -- as above
      end
    end
  end
end

-- As a claim in company. What is to be looked at, told to somebody, or fetched before it can run is left to that.
local function start(id)
  local job = fields(id, 'state', 'deadline_at', 'attempt', 'ref', 'created_at', 'queued_at', 'runner', 'suspect',
    'canceled', 'listeners', 'webhook', 'batch', 'payloads', 'stored')
  local attempt = tonumber(job[3] or '')
  if job[1] ~= 'queued' or not attempt or tonumber(job[2]) <= now then return end
  for i = 7, 14 do
    if job[i] and not (i == 13 and job[i] == '0') then return end
  end
  count_started(job[4])
  start_job(JOB .. id, attempt + 1, holder, name, '0')
  out[5] = { 'run', attempt + 1, tostring(now), job[6] or job[5] }
end

-- Whatever fails: what has left its list is filed.
local done, why = pcall(look)
file_taken()
if failed or not done then return failure(failed or why) end
if name ~= '' and #out[4] == 1 then pcall(start, out[4][1]) end
return out
