-- Behind prelude.lua, linked in where it is used.
-- What a script counts of jobs that go on or end is gathered, and written when it ends, once a key: the jobs of a version
-- that end in one call cost its counters as much as one of them. (Of one that begins it is written at once.) A script that
-- uses `count_up` runs inside of `counting` (shared/calls.py), so what is gathered is written however it ends. Count where
-- the record changes, with nothing between the two that can fail; and who reads a count in the same script adds what is
-- gathered of it (`counts_now`), or writes that first.

local gathered = {} -- by key, by field

local overdue_no_more = {} -- members of DEADLINES

local unqueued = {} -- keys of counters by which a job has ended that nobody had taken

local function count_up(key, field, by)
  local more = gathered[key]
  if not more then
    more = {}
    gathered[key] = more
  end
  more[field] = (more[field] or 0) + by
end

-- So much is gathered, and not yet written.
local function counted(key, field)
  return gathered[key] and gathered[key][field] or 0
end

-- Counts as they are now.
local function counts_now(key, ...)
  local values = redis.call('HMGET', key, ...)
  for i, name in ipairs({ ... }) do values[i] = (tonumber(values[i]) or 0) + counted(key, name) end
  return values
end

-- So many at a time as Lua hands on as arguments.
local SOME = 500
local function by_hundreds(list, act)
  for first = 1, #list, SOME do act(first, math.min(first + SOME - 1, #list)) end
end

-- Counts are added, or read and set, by as few commands as can be. Their sums.
local function add_up(key, more, names)
  local sums, values = {}, {}
  if #names <= 2 then
    for _, name in ipairs(names) do sums[name] = redis.call('HINCRBY', key, name, more[name]) end
    return sums
  end
  for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
    local name = names[i]
    sums[name] = (tonumber(value) or 0) + more[name]
    values[2 * i - 1], values[2 * i] = name, sums[name]
  end
  redis.call('HSET', key, unpack(values))
  return sums
end

-- Of an owner nothing is left where it has nothing under way, and of its bytes neither.
local function drop_idle(key, sums)
  local idle = {}
  for name, sum in pairs(sums) do
    if sum <= 0 and not string.find(name, ':bytes', -6, true) then
      idle[#idle + 1], idle[#idle + 2] = name, name .. ':bytes'
    end
  end
  if #idle > 0 then redis.call('HDEL', key, unpack(idle)) end
end

local function write_some(key, more, names)
  local sums = add_up(key, more, names)
  if key == ACTIVE or string.sub(key, 1, #OWNED) == OWNED then
    drop_idle(key, sums)
  elseif unqueued[key] and sums.queued and sums.queued <= 0 then
    redis.call('HDEL', key, unpack(MEASURE))
  end
end

-- A key that is no hash (somebody's hand) must not take the others' counts with it.
local function write_counts()
  local counts, ids = gathered, overdue_no_more
  gathered, overdue_no_more = {}, {}
  for key, more in pairs(counts) do
    local names = {}
    for name in pairs(more) do names[#names + 1] = name end
    if #names <= SOME then
      pcall(write_some, key, more, names)
    else
      table.sort(names, function(one, other) return one > other end) -- an owner, which goes with its bytes, behind these
      by_hundreds(names, function(first, last) pcall(write_some, key, more, { unpack(names, first, last) }) end)
    end
  end
  unqueued = {}
  by_hundreds(ids, function(first, last) redis.pcall('ZREM', DEADLINES, unpack(ids, first, last)) end)
end

-- What a script gives back when `act` has failed in the place of its reply.
local function failure(why)
  return type(why) == 'table' and why or { err = 'ERR ' .. tostring(why) }
end

local function counting(act)
  local done, reply = pcall(act)
  write_counts()
  if done then return reply end
  return failure(reply)
end

-- What a key has under way, in all and of a version: for its limits and its share of a full queue.
local function count_owned(owner, ref, jobs, bytes)
  if owner == '' then return end
  count_up(ACTIVE, owner, jobs)
  count_up(OWNED .. ref, owner, jobs)
  count_up(OWNED .. ref, owner .. ':bytes', bytes)
end

local function count_of(id, name, by)
  local ref = field(id, 'ref')
  if ref then count_up(COUNTERS .. ref, name, by) end
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
  count_up(counters, 'le:' .. bucket, 1)
  count_up(counters, 'latency_ms', ms)
end
