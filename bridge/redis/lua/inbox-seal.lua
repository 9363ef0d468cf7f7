#!lua flags=allow-oom
-- The owner of an inbox is dead: it takes nothing any more, so that what is left in it can be read to its end. Called
-- twice it changes nothing.
-- KEYS   state
-- WRITES state
-- ARGV   (none)
-- REPLY  1
-- COST   O(1)
local stateKey = KEYS[1]
redis.call('HSET', stateKey, 'sealed', 'dead')
return 1
