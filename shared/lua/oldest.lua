#!lua flags=no-writes,allow-oom,no-cluster
-- How long the oldest job waits that lies in these lists, for each group of them. Jobs that were canceled lie there too
-- until their turn comes: a few of them are passed over. Lines of batches wait by design, and are passed over too.
-- KEYS  the lists, one group after the other
-- ARGV  for each group: how many lists it has
-- RETURNS for each group: ms, 0 where none waits
local LOOK = 16

-- Since when (ms) the next of a list waits; nil: none does.
local function since(list)
  local next_ones = redis.call('LRANGE', list, -LOOK, -1)
  for i = #next_ones, 1, -1 do
    local readable, message = pcall(cjson.decode, next_ones[i])
    local id = readable and type(message) == 'table' and type(message.headers) == 'table' and message.headers.id
    local job = type(id) == 'string' and fields(id, 'state', 'queued_at', 'created_at', 'batch') or {}
    if job[1] == 'queued' and not job[4] then return tonumber(job[2] or job[3]) end
  end
end

local out, at = {}, 0
for _, size in ipairs(ARGV) do
  local first
  for i = at + 1, at + size do
    for _, lane in ipairs(lanes(KEYS[i])) do
      local found = since(lane)
      if found and (not first or found < first) then first = found end
    end
  end
  at = at + size
  out[#out + 1] = first and math.max(0, now - first) or 0
end
return out
