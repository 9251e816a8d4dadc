#!lua flags=no-cluster
-- A batch begins to be sent. Nobody sees it before `batch_seal`, and nothing of it runs. Refused at maxmemory on purpose.
-- KEYS  none
-- ARGV  1 id, 2 ref, 3 lease (ms): without another slice for so long it is dropped, 4... record fields as name, value
--       pairs
-- RETURNS 1
local id = ARGV[1]
redis.call('HSET', UPLOAD .. id, 'ref', ARGV[2], 'total', 0, unpack(ARGV, 4))
redis.call('PEXPIRE', UPLOAD .. id, 2 * ARGV[3])
schedule(id, ARGV[2], now + ARGV[3])
return 1
