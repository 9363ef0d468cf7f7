#!lua flags=allow-oom
-- Puts a key of a wrong type out of the way, so that it can be made anew: it stays under another name for a week.
-- KEYS   any damaged
-- WRITES any damaged
-- ARGV   the type that it must have, seconds
-- REPLY  the type that it had, or "" when nothing was wrong with it
-- COST   O(1)
local anyKey, damagedKey, type, seconds = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local found = redis.call('TYPE', anyKey).ok
if found == 'none' or found == type then return '' end
redis.call('RENAME', anyKey, damagedKey)
redis.call('EXPIRE', damagedKey, seconds)
return found
