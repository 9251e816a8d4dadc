#!lua flags=allow-oom,no-cluster
-- A held message that cannot be worked on goes to the dead letters, and its job, if it has one, fails: nobody will run
-- it. A job that has ended needs no letter.
-- KEYS  none
-- ARGV  1 delivery tag, 2 reason, 3 ISO time
-- RETURNS 1 buried, 0 not held any more, or its job had ended
local tag, reason = ARGV[1], ARGV[2]
local held = redis.call('HGET', UNACKED, tag)
forget_message(tag)
if not held then return 0 end
local newline = string.find(held, '\n', 1, true)
local list, raw = string.sub(held, 1, newline - 1), string.sub(held, newline + 1)
local id = cjson.decode(raw).headers.id
if type(id) ~= 'string' then id = tag end
local state = field(id, 'state')
if state and terminal[state] then return 0 end
if state then
  end_job(id, 'failed', 'model_unavailable', failed_meta(id, 'model_unavailable',
    'no worker can read this job\'s message; it is kept among the dead letters', ARGV[3]))
end
dead_letter(reason, id, list, raw)
return 1
