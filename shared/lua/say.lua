#!lua flags=no-cluster
-- What a job's run has said, piece by piece: kept in one string for who reads it, who is woken. Only of the run that
-- this worker has under way. A piece comes with its place, so that one that is sent twice, or said again by a batch that
-- is run again, is kept once. Of what is too much the beginning is kept, and then no more.
-- The string lives for 10 minutes after the last piece, and not longer than the job may take: who reads a job's end
-- has the whole of it in the outcome. Refused at maxmemory: no job hangs on it.
-- KEYS  none
-- ARGV  1 worker's process id, 2 id, 3 attempt, 4 place in bytes, 5 piece, 6 most bytes of the whole
-- RETURNS 1 kept, 0 no more of it is wanted: it does not run there (any more), was canceled, something else was said at
--         this place, something before it is missing, or it was too much
local id, at, piece = ARGV[2], tonumber(ARGV[4]), ARGV[5]
local job = fields(id, 'state', 'runner', 'attempt', 'canceled', 'deadline_at', 'listeners')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or job[3] ~= ARGV[3] or job[4] then return 0 end
local key = SAID .. id .. ':' .. ARGV[3]
local said = redis.call('STRLEN', key)
if at > said then return 0 end
local again = string.sub(piece, 1, said - at)
if again ~= '' and redis.call('GETRANGE', key, at, at + #again - 1) ~= again then return 0 end
local room = math.max(0, tonumber(ARGV[6]) - said)
local fresh = string.sub(piece, #again + 1, #again + room)
if fresh ~= '' then
  redis.call('APPEND', key, fresh)
  redis.call('PEXPIRE', key, math.max(1, math.min(tonumber(job[5]) - now, SAID_TTL_MS)))
  if job[6] then tell(job[6], id, 'progress', '') end
end
return #again + #fresh == #piece and 1 or 0
