#!lua flags=allow-oom,no-cluster
-- Cancel a batch: no further line begins, and those that have not are canceled, in this step. Those in the queue follow
-- in slices (`batch_step`), those that run end as canceled with what they run in.
-- KEYS  none
-- ARGV  1 id
-- RETURNS the state before, '' for no such batch
local id = ARGV[1]
local batch = batch_fields(id, 'state', 'ref')
local state = batch[1]
if not state then return '' end
if state == 'queued' or state == 'running' then
  redis.call('HSET', BATCH .. id, 'state', 'canceled')
  cut_lines(id, 'canceled')
  tell_waiters(id, 'canceled')
  end_if_done(id)
end
return state
