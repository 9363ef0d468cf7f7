#!lua
-- Sets and clears Retained Messages of one partition, in order.
-- KEYS   appended retained, of one partition
-- ARGV   nodeId, topic, record, topic, record …; an empty record clears [MQTT-3.3.1-6]
-- REPLY  1
-- FAILS  FENCED: the node was declared dead, or Redis lost its data
-- COST   O(messages)
local appendedKey, retainedKey, nodeId = KEYS[1], KEYS[2], ARGV[1]
if redis.call('HEXISTS', appendedKey, nodeId) == 0 then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', retainedKey, ARGV[i]) else redis.call('HSET', retainedKey, ARGV[i], ARGV[i + 1]) end
end
return 1
