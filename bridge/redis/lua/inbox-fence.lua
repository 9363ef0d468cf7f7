#!lua flags=allow-oom
-- Refuses everything that a dead node may still send to an inbox. Its node id is never used again.
-- KEYS   senders
-- WRITES senders
-- ARGV   dead node id
-- REPLY  1
-- COST   O(1)
local sendersKey = KEYS[1]
redis.call('HSET', sendersKey, ARGV[1], 'F')
return 1
