#!lua
-- Sets and clears Retained Messages of one partition, in order, each under a stamp of its own: one counter of
-- the partition, which also Redis' clock moves on, so that it does not come back to an old number when its
-- hash was lost. The counter stands in the hash itself, under the empty name, which no topic has. A QoS 2
-- message or a will that was stored before is left out, whoever sends it again: a newer one may stand there
-- by now.
-- KEYS   appended retained published due
-- WRITES retained published due
-- ARGV   nodeId, then of each message: topic, record (empty: clears [MQTT-3.3.1-6]), publisher's sid (""
--        unless QoS 2 or a will), n, when it expires (ms from now, -1: never)
-- REPLY  { of each message its stamp (0: left out, and another one stands there), and 1 when its topic had no
--        value before, otherwise 0 }
-- FAILS  FENCED: the node was declared dead, or Redis lost its data
-- COST   O(messages), O(log due) for one that expires
local appendedKey, retainedKey, publishedKey, dueKey, nodeId = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
if redis.call('HEXISTS', appendedKey, nodeId) == 0 then
  return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead')
end
-- Of a wrong type any of them fails before anything is written.
redis.call('HLEN', retainedKey)
redis.call('HLEN', publishedKey)
redis.call('ZCARD', dueKey)
local time = redis.call('TIME')
local ahead = time[1] * 1000000 + time[2] + 3e13 -- numbers follow the clock: one that is so far ahead of it is damaged
local now = time[1] * 1000 + time[2] / 1000
local stamp = tonumber(redis.call('HGET', retainedKey, '') or '') or 0
if stamp > ahead then stamp = 0 end
stamp = math.max(stamp, time[1] * 1000000 + time[2])
local reply = {}
for i = 2, #ARGV, 5 do
  local topic, record, publisher, n, left =
    ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local field = 'retained:' .. publisher -- queues have a number of their own: they get the message after this
  local highest = publisher == '' and 0 or tonumber(redis.call('HGET', publishedKey, field) or '0') or 0
  if highest > ahead and n <= ahead then highest = 0 end
  if publisher == '' or n > highest then
    local fresh = 0
    stamp = stamp + 1
    if record == '' then redis.call('HDEL', retainedKey, topic)
    else fresh = redis.call('HSET', retainedKey, topic, struct.pack('>d', stamp) .. record) end
    if left < 0 then
      redis.call('ZREM', dueKey, 'r:' .. topic)
    else
      redis.call('ZADD', dueKey, string.format('%.3f', now + left), 'r:' .. topic)
    end
    if publisher ~= '' then redis.call('HSET', publishedKey, field, string.format('%.0f', n)) end
    reply[#reply + 1] = stamp
    reply[#reply + 1] = fresh
  else
    local there = redis.call('HGET', retainedKey, topic)
    reply[#reply + 1] = there and string.sub(there, 9) == record and struct.unpack('>d', there) or 0
    reply[#reply + 1] = 0
  end
end
redis.call('HSET', retainedKey, '', string.format('%.0f', stamp))
return reply
