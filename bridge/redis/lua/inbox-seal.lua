#!lua flags=allow-oom
-- The owner of an inbox is dead: it takes nothing any more, so that what is left in it can be read to its end. Called
-- twice it changes nothing; nor where there is no inbox: its estate was done meanwhile, and nothing may be left of it.
-- KEYS   stream state
-- WRITES state
-- ARGV   (none)
-- REPLY  1
-- COST   O(1)
local streamKey, stateKey = KEYS[1], KEYS[2]
if redis.call('EXISTS', streamKey, stateKey) > 0 then redis.call('HSET', stateKey, 'sealed', 'dead') end
return 1
