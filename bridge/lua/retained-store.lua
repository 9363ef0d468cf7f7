#!lua
-- Sets and clears Retained Messages of one partition, in order. A QoS 2 message or a will that was stored before is left out, whoever
-- sends it again: a newer one may stand there by now.
-- KEYS   appended retained published, of one partition
-- ARGV   nodeId, then of each message: topic, record (empty: clears [MQTT-3.3.1-6]), publisher's sid ("" unless QoS 2 or a will), n
-- REPLY  1
-- FAILS  FENCED: the node was declared dead, or Redis lost its data
-- COST   O(messages)
local appendedKey, retainedKey, publishedKey, nodeId = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
if redis.call('HEXISTS', appendedKey, nodeId) == 0 then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
for i = 2, #ARGV, 4 do
  local topic, record, publisher, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local field = 'retained:' .. publisher -- queues have a number of their own: they get the message behind this
  if publisher == '' or n > tonumber(redis.call('HGET', publishedKey, field) or '0') then
    if record == '' then redis.call('HDEL', retainedKey, topic) else redis.call('HSET', retainedKey, topic, record) end
    if publisher ~= '' then redis.call('HSET', publishedKey, field, string.format('%.0f', n)) end
  end
end
return 1
