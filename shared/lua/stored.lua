-- Before the prelude, linked in where it is used: what lies in the payload store.
-- A reference is a letter (r: this Redis, f: a folder, s: S3), 32 hex digits, a dot, and how many objects it has:
-- r<hex>.3 is r<hex>.0 to r<hex>.2. Each that may have objects is in STORED, by its expiry, from before the first of them
-- is written; then in DOOMED until they are deleted, which no script can do outside of Redis: any API process does.

local function each_object(ref, act)
  if string.sub(ref, 1, 1) ~= 'r' then return end
  local stem, count = string.match(ref, '^(%l%x+)%.(%d+)$')
  for n = 0, tonumber(count or '0') - 1 do act(OBJECT .. stem .. '.' .. n) end
end

-- Not before `at` (ms) may it go.
local function keep_until(ref, at)
  redis.call('ZADD', STORED, 'XX', 'GT', at, ref)
  each_object(ref, function(key) redis.call('PEXPIREAT', key, at, 'GT') end)
end

-- It goes at `at` (ms).
local function expire_at(ref, at)
  redis.call('ZADD', STORED, 'XX', at, ref)
  each_object(ref, function(key) redis.call('PEXPIREAT', key, at) end)
end

-- It goes now.
local function free_stored(ref, now)
  if redis.call('ZREM', STORED, ref) == 0 then return end
  if string.sub(ref, 1, 1) == 'r' then
    each_object(ref, function(key) redis.call('UNLINK', key) end)
  else
    redis.call('ZADD', DOOMED, now, ref)
  end
end

-- For each word of a record's field.
local function each_word(words, act)
  for word in string.gmatch(words or '', '%S+') do act(word) end
end

-- A file outlives the jobs that use it: its objects are kept for each of them, and one that is deleted meanwhile goes
-- with the last.
local function use_file(id, at)
  local key = FILE .. id
  if redis.call('EXISTS', key) == 0 then return end
  redis.call('HINCRBY', key, 'uses', 1)
  redis.call('PEXPIREAT', key, at, 'GT')
  keep_until(redis.call('HGET', key, 'ref'), at)
end

local function keep_file(id, at)
  local ref = redis.call('HGET', FILE .. id, 'ref')
  if not ref then return end
  redis.call('PEXPIREAT', FILE .. id, at, 'GT')
  keep_until(ref, at)
end

local function release_file(id, now)
  local key = FILE .. id
  local file = redis.call('HMGET', key, 'ref', 'deleted')
  if not file[1] then return end
  if redis.call('HINCRBY', key, 'uses', -1) <= 0 and file[2] then
    free_stored(file[1], now)
    redis.call('DEL', key)
  end
end

-- The first of these that a new job cannot have: a part that is not there any more, a file that is deleted or expired;
-- nil: all are there. `now` 0: expired files count while they are there (they are kept for a dead letter).
local function missing_stored(stored, files, now)
  local lost
  each_word(stored, function(ref)
    if not redis.call('ZSCORE', STORED, ref) then lost = lost or ref end
  end)
  each_word(files, function(id)
    local file = redis.call('HMGET', FILE .. id, 'ref', 'deleted', 'expires_at')
    if not file[1] or file[2] or tonumber(file[3]) <= now or not redis.call('ZSCORE', STORED, file[1]) then
      lost = lost or id
    end
  end)
  return lost
end

-- Bytes and number of the files of an owner.
local function files_of(owner, now)
  redis.call('ZREMRANGEBYSCORE', FILES .. owner, '-inf', now)
  local bytes, count = 0, 0
  for _, file in ipairs(redis.call('ZRANGE', FILES .. owner, 0, -1)) do
    bytes = bytes + tonumber(string.match(file, ' (%d+)$'))
    count = count + 1
  end
  return bytes, count
end
