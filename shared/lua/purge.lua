#!lua flags=allow-oom,no-cluster
-- A slice of a purge: jobs of some versions that have not started end as canceled, and whoever waits for them is told,
-- as at any end. It is called until nothing is left, so that Redis serves others in between. Messages that are not of
-- such a job leave the lists too: their job has ended, or its record is gone. Newer ones are parked, as by drain.lua.
-- KEYS  all lists of these versions
-- ARGV  1 where to look: 'lists'; 'held': in workers' hands, where the messages stay (they are no work any more);
--       'delayed': not to start yet. 2 cursor, '0' at first, 3 about how many at most, 4 ISO time, 5 the newest
--       message version that the caller understands, 6... the refs
-- RETURNS {how many jobs have ended, the next cursor; '0': looked at all}
local where, cursor, most, iso, known = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local refs, ended = {}, 0
for i = 6, #ARGV do refs[ARGV[i]] = true end

local function purge(id)
  local job = fields(id, 'state', 'ref')
  if job[1] ~= 'queued' or not refs[job[2]] then return end
  end_job(id, 'canceled', 'canceled',
    revoked_meta(id, 'canceled', 'canceled', 'the jobs of its model that had not started were purged', iso))
  ended = ended + 1
end

local function purge_message(list, raw)
  local readable, message = pcall(cjson.decode, raw)
  local properties = readable and type(message) == 'table' and message.properties
  local tag = type(properties) == 'table' and properties.delivery_tag
  local headers = readable and type(message) == 'table' and message.headers
  if parked(list, raw, headers, known) then return end
  if type(tag) == 'string' then purge(tag) else dead_letter('unparsable', '', list, raw) end
end

if where == 'lists' then
  cursor = '0'
  for _, list in ipairs(KEYS) do
    for _, lane in ipairs(lanes(list)) do
      local taken = most > 0 and redis.call('RPOP', lane, most) or {}
      most = most - #taken
      for _, raw in ipairs(taken) do purge_message(list, raw) end
    end
    if length_of(list) > 0 then cursor = '1' else redis.call('DEL', TURNS .. list) end
  end
else
  local by_hash = where == 'held'
  local found = redis.call(by_hash and 'HSCAN' or 'ZSCAN', by_hash and HOLDERS or DUE, cursor, 'COUNT', most)
  cursor = found[1]
  for i = 1, #found[2], 2 do purge(found[2][i]) end
end
return { ended, cursor }
