#!lua
-- Removes the keys of a session, or of a group, that is not there: `doctor --repair`. Called twice it does the same.
-- KEYS   owners groups any any any any any
-- WRITES any
-- ARGV   the sid or gid that the keys end with
-- REPLY  how many keys were removed; 0: it is there
-- COST   O(groups), freed in the background
local ownersKey, groupsKey = KEYS[1], KEYS[2]
local id = ARGV[1]

if redis.call('HEXISTS', ownersKey, id) == 1 then return 0 end
for _, entry in ipairs(redis.call('HVALS', groupsKey)) do
  if string.match(entry, '^%S+') == id then return 0 end
end
local removed = 0
for _, anyKey in ipairs({ KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7] }) do
  removed = removed + redis.call('UNLINK', anyKey)
end
return removed
