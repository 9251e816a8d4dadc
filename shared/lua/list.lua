#!lua flags=allow-oom,no-cluster
-- An owner's jobs, the newest first, from a place on. Entries of records that are gone leave.
-- KEYS  none
-- ARGV  1 owner, 2 how many jobs at most, 3 how many entries to look at, 4 and 5 the place: '' (the newest), or
--       created_at (ms) and id of the last one seen, 6 states, each followed by a newline, or '' (any), 7 model or '',
--       8 version or '', 9... labels that it must have, as name:value
-- RETURNS {'' (there are no more) or created_at of the last one seen, its id, then for each job: its id, its record as
--         name, value pairs, and its outcome if it has failed or was canceled, else ''}
local index = JOBS .. ARGV[1]
local most, look = tonumber(ARGV[2]), tonumber(ARGV[3])
local place_at, place_id, states, model, version = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]

-- Whether an entry stands before the place or is it. Ids of one millisecond are compared bytewise, as in the sorted
-- set: `<` would go by the server's locale.
local function is_seen(id, created_at)
  if created_at ~= place_at then return false end
  for i = 1, math.max(#id, #place_id) do
    local one, other = string.byte(id, i) or -1, string.byte(place_id, i) or -1
    if one ~= other then return one > other end
  end
  return true
end

local function has_labels(text)
  local readable, labels = pcall(cjson.decode, text or '{}')
  local there = {}
  if readable and type(labels) == 'table' then
    for name, value in pairs(labels) do there[name .. ':' .. tostring(value)] = true end
  end
  for i = 9, #ARGV do
    if not there[ARGV[i]] then return false end
  end
  return true
end

local function is_asked_for(job)
  return (states == '' or string.find('\n' .. states, '\n' .. job[1] .. '\n', 1, true))
    and (model == '' or job[2] == model) and (version == '' or job[3] == version)
    and (#ARGV < 9 or has_labels(job[4]))
end

local start = place_at == '' and 0 or redis.call('ZCOUNT', index, '(' .. place_at, '+inf')
local entries
repeat -- past what is seen of the place's millisecond
  entries = redis.call('ZREVRANGE', index, start, start + look - 1, 'WITHSCORES')
  start = start + look
until #entries == 0 or not is_seen(entries[#entries - 1], entries[#entries])
local out, at = { '', '' }, 0
while at < #entries and #out < 2 + 3 * most do
  local id, created_at = entries[at + 1], entries[at + 2]
  at = at + 2
  if not is_seen(id, created_at) then
    local job = fields(id, 'state', 'model', 'version', 'labels')
    if not job[1] then
      redis.call('ZREM', index, id)
    elseif is_asked_for(job) then
      out[#out + 1] = id
      out[#out + 1] = redis.call('HGETALL', JOB .. id)
      local told = job[1] == 'failed' or job[1] == 'canceled'
      out[#out + 1] = told and redis.call('GET', OUTCOME .. id) or ''
    end
  end
end
if at < #entries or #entries == 2 * look then out[1], out[2] = entries[at], entries[at - 1] end
return out
