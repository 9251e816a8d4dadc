#!lua flags=allow-oom,no-cluster
-- A held message that cannot be worked on goes to the dead letters.
-- KEYS  none
-- ARGV  1 delivery tag, 2 reason
-- RETURNS 1 buried, 0 not held any more
local held = redis.call('HGET', UNACKED, ARGV[1])
forget_message(ARGV[1])
if not held then return 0 end
local newline = string.find(held, '\n', 1, true)
dead_letter(ARGV[2], ARGV[1], string.sub(held, 1, newline - 1), string.sub(held, newline + 1))
return 1
