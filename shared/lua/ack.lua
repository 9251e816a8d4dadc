#!lua flags=allow-oom,no-cluster
-- Held messages that need no work any more are forgotten. What another process holds by now is its own.
-- KEYS  none
-- ARGV  1 worker's process id, 2... delivery tags
-- RETURNS how many were forgotten
local forgotten = 0
for i = 2, #ARGV do
  if redis.call('HGET', HOLDERS, ARGV[i]) == ARGV[1] then
    forget_message(ARGV[i])
    forgotten = forgotten + 1
  end
end
return forgotten
