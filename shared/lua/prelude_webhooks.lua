-- Behind prelude.lua, linked in where it is used.
-- Webhooks: a delivery is one event of a job (or a batch) on its way to the URL that asked for it. It lies by its due time
-- in a sorted set of its host; WEBHOOKS has the hosts, by their first, so that one that is slow holds up no other.
local function set_due(host, delivery, at)
  if at then redis.call('ZADD', HOST .. host, at, delivery) else redis.call('ZREM', HOST .. host, delivery) end
  local first = redis.call('ZRANGE', HOST .. host, 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', WEBHOOKS, first[2], host) else redis.call('ZREM', WEBHOOKS, host) end
end

-- The one place where a delivery begins: `event` of the record `key` of a 'job' or 'batch' is due now, if its webhook
-- wants it. Returns the delivery's key, or nil. Call it where the record is known to have a webhook.
local function notify(kind, key, id, event)
  local names = { 'owner', 'request_id', 'traceparent', 'tracestate' }
  local record = redis.call('HMGET', key, 'webhook', unpack(names))
  local readable, hook = pcall(cjson.decode, record[1] or '')
  if not (readable and type(hook) == 'table' and type(hook.events) == 'table' and type(hook.url) == 'string'
    and type(hook.host) == 'string') then return nil end -- a hand's
  local wanted = false
  for _, name in ipairs(hook.events) do wanted = wanted or name == event end
  local delivery = 'msg_' .. id .. '_' .. event
  local hash = HOOK .. delivery
  if not wanted or redis.call('EXISTS', hash) == 1 then return nil end
  local told = { 'kind', kind, 'of', id, 'event', event, 'at', now, 'url', hook.url, 'host', hook.host, 'state', 'due',
    'tries', 0, 'next_at', now }
  for i, name in ipairs(names) do
    if record[i + 1] then
      told[#told + 1] = name
      told[#told + 1] = record[i + 1]
    end
  end
  redis.call('HSET', hash, unpack(told))
  redis.call('PEXPIRE', hash, HOOK_TTL_MS)
  set_due(hook.host, delivery, now)
  redis.call('PUBLISH', WEBHOOKS, delivery)
  return hash
end

-- Where it is noted that an owner's receiver has answered 410.
local function hook_off(owner, url)
  return HOOK_OFF .. (owner or '') .. ':' .. redis.sha1hex(url)
end

-- The body of a delivery is made, or never will be: its job lives as long as any from now on.
local function release(hash)
  local held = redis.call('HMGET', hash, 'of', 'until')
  if not held[2] then return end
  redis.call('PEXPIREAT', JOB .. held[1], held[2])
  redis.call('PEXPIREAT', OUTCOME .. held[1], held[2])
  redis.call('HDEL', hash, 'until')
end

-- No attempt more, unless somebody asks for one.
local function end_delivery(delivery, host, state)
  local hash = HOOK .. delivery
  redis.call('HSET', hash, 'state', state)
  redis.call('HDEL', hash, 'next_at', 'holder')
  redis.call('PEXPIRE', hash, HOOK_TTL_MS)
  set_due(host, delivery, nil)
  release(hash)
end

