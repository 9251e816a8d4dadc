#!lua flags=no-cluster
-- The next lines of a batch that is being sent. Refused at maxmemory on purpose.
-- KEYS  none
-- ARGV  1 id, 2 how many lines there are before these, 3 how many these are, 4 lease (ms), 5 how many payloads they have,
--       6 how many of them are refused, then for each of those its line and its error (JSON), then the entries of the
--       others (see `begin_line`)
-- RETURNS 1 (also when run again) | 0: it is not being sent any more, or lines are missing
local id, first, lines, lease, refused = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local upload = redis.call('HMGET', UPLOAD .. id, 'total', 'ref')
local total = tonumber(upload[1])
if total == first + lines then return 1 end
if total ~= first then return 0 end
local at = 7 + 2 * refused
if refused > 0 then
  redis.call('HSET', REFUSED .. id, unpack(ARGV, 7, at - 1))
  redis.call('PEXPIRE', REFUSED .. id, 2 * lease)
  redis.call('HINCRBY', UPLOAD .. id, 'refused', refused)
end
if ARGV[at] then
  redis.call('LPUSH', LINES .. id, unpack(ARGV, at))
  redis.call('PEXPIRE', LINES .. id, 2 * lease)
end
redis.call('HINCRBY', UPLOAD .. id, 'payloads', ARGV[5])
redis.call('HINCRBY', UPLOAD .. id, 'total', lines)
redis.call('PEXPIRE', UPLOAD .. id, 2 * lease)
schedule(id, upload[2], now + lease)
return 1
