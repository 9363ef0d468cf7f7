#!lua flags=allow-oom
-- Clears a Retained Message whose Message Expiry Interval has passed [MQTT-3.3.2-5]. Called twice it changes nothing.
-- KEYS   due retained
-- WRITES due retained
-- ARGV   topic, how long it has left by cluster time all the same (ms from now, below 0: nothing)
-- REPLY  1 cleared, 0 it is not due (another one stands there by now), or not any more
-- COST   O(log due)
local dueKey, retainedKey, topic, left = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

redis.call('HLEN', retainedKey) -- of a wrong type it fails before anything is written
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local due = redis.call('ZSCORE', dueKey, 'r:' .. topic)
if not due or tonumber(due) > now then return 0 end
if left >= 0 then
  redis.call('ZADD', dueKey, string.format('%.3f', now + left), 'r:' .. topic)
  return 0
end
redis.call('ZREM', dueKey, 'r:' .. topic)
redis.call('HDEL', retainedKey, topic)
return 1
