#!lua
-- Whether Redis stores: writes a key and removes it, by the way that messages take. Called twice it does the same.
-- KEYS   probe
-- WRITES probe
-- ARGV   none
-- REPLY  1
-- FAILS  with whatever keeps Redis from storing: OOM, READONLY, MISCONF, NOREPLICAS, NOPERM …
-- COST   O(1)
local probeKey = KEYS[1]
redis.call('SET', probeKey, '1')
return redis.call('DEL', probeKey)
