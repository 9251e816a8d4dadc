#!lua flags=allow-oom,no-cluster
-- What an owner has uploaded and is still there.
-- KEYS  none
-- ARGV  1 owner
-- RETURNS {bytes, files}
return { files_of(ARGV[1], now) }
