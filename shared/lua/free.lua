#!lua flags=allow-oom,no-cluster
-- What lies in the payload store and belongs to no job.
-- KEYS  none
-- ARGV  references
-- RETURNS nothing
for _, ref in ipairs(ARGV) do free_stored(ref, now) end
