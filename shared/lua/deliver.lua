#!lua flags=allow-oom,no-cluster
-- Take deliveries that are due, under a lease: what is not reported by its end is due again, for another. Hosts are served
-- by their oldest, each as far as it has room. Those to a receiver that has answered 410 end as disabled.
-- KEYS  none
-- ARGV  1 lease (ms), 2 how many at most, 3 how many of one host, 4 who holds them (a name for this take alone),
--       5... as pairs a host, and how many of it in the place of 3
-- RETURNS {ms until the next is due (-1: none), and for each that was taken its id, and its fields as a flat list}
local lease, room, each, holder = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local LOOKED = 1000 -- at most, so that a heap of expired ones holds up nobody
local rooms, looked, taken = {}, 0, {}
for i = 5, #ARGV, 2 do rooms[ARGV[i]] = tonumber(ARGV[i + 1]) end

local function take(host, most)
  local count = 0
  while count < most and looked < LOOKED do
    local due = redis.call('ZRANGEBYSCORE', HOST .. host, '-inf', now, 'LIMIT', 0, most - count)
    if #due == 0 then
      if count == 0 then set_due(host, '', nil) end -- a hand's
      break
    end
    for _, delivery in ipairs(due) do
      looked = looked + 1
      local hash = HOOK .. delivery
      local hook = redis.pcall('HMGET', hash, 'state', 'forced', 'owner', 'url')
      if hook.err or hook[1] ~= 'due' then
        set_due(host, delivery, nil) -- it has expired
      elseif not hook[2] and redis.call('EXISTS', hook_off(hook[3], hook[4])) == 1 then
        end_delivery(delivery, host, 'disabled')
      else
        set_due(host, delivery, now + lease)
        redis.call('HSET', hash, 'holder', holder)
        redis.call('PEXPIRE', hash, lease + HOOK_TTL_MS)
        taken[#taken + 1] = delivery
        taken[#taken + 1] = redis.call('HGETALL', hash)
        count = count + 1
      end
    end
  end
  return count
end

-- So many hosts that those without room, all of them named, leave enough others.
local listed = room + (#ARGV - 4) / 2
local hosts = redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', now, 'LIMIT', 0, listed)
for _, host in ipairs(hosts) do
  local most = math.min(room, rooms[host] or each)
  if most > 0 then room = room - take(host, most) end
end
local next_due = redis.call('ZRANGEBYSCORE', WEBHOOKS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
-- There is room, and hosts may be left behind some that had none to take: look again at once.
local more = looked >= LOOKED or (room > 0 and #hosts == listed)
local wait = more and 0 or next_due and math.ceil(next_due - now) or -1
return { wait, unpack(taken) }
