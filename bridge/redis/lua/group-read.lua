#!lua flags=no-writes
-- What no member of a group has acknowledged, as it is at this moment: `backup`.
-- KEYS   groups backlog given
-- WRITES none
-- ARGV   group, gid
-- REPLY  {}: it is another group by now; { {sid and id, entry … of what members have in flight}, backlog {item …} }
-- COST   O(all of it)
local groupsKey, backlogKey, givenKey = KEYS[1], KEYS[2], KEYS[3]
local group, gid = ARGV[1], ARGV[2]

if string.match(redis.call('HGET', groupsKey, group) or '', '^%S+') ~= gid then return {} end
return { redis.call('HGETALL', givenKey), redis.call('LRANGE', backlogKey, 0, -1) }
