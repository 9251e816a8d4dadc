#!lua flags=allow-oom,no-cluster
-- Workers start no job of a model any more, or do so again. Those that wait for it are woken: they track what drain.lua
-- and claim.lua read.
-- KEYS  none
-- ARGV  1 the model's name, 2 '1' pause | '0' resume
-- RETURNS 1 it was not so before | 0 it was
if ARGV[2] == '1' then return redis.call('HSETNX', PAUSED, ARGV[1], now) end
return redis.call('HDEL', PAUSED, ARGV[1])
