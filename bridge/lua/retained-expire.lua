#!lua flags=allow-oom
-- Clears a Retained Message whose Message Expiry Interval has passed [MQTT-3.3.2-5]. Called twice it changes nothing.
-- KEYS   due retained, of one partition
-- ARGV   topic
-- REPLY  1 cleared, 0 it is not due: another one stands there by now
-- COST   O(log due)
local dueKey, retainedKey, topic = KEYS[1], KEYS[2], ARGV[1]

local time = redis.call('TIME')
local due = redis.call('ZSCORE', dueKey, 'r:' .. topic)
if not due or tonumber(due) > time[1] * 1000 + time[2] / 1000 then return 0 end
redis.call('ZREM', dueKey, 'r:' .. topic)
redis.call('HDEL', retainedKey, topic)
return 1
