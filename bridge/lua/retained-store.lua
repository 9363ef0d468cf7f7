#!lua
-- Sets and clears Retained Messages of one shard, in order.
-- KEYS   retained(shard)
-- ARGV   topic, record, topic, record …; an empty record clears [MQTT-3.3.1-6]
-- REPLY  1
-- COST   O(messages)
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[i]) else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
