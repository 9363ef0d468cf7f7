#!lua flags=no-writes
-- Reads Retained Messages of one partition, in the order of the topics, as far as they fit.
-- KEYS   retained
-- WRITES none
-- ARGV   how many bytes may come, then topics
-- REPLY  { bytes of the value that did not fit any more (0: all did), value or false, value or false … }
-- COST   O(topics)
local retainedKey, room = KEYS[1], tonumber(ARGV[1])
local reply = { 0 }
for i = 2, #ARGV do
  local bytes = redis.call('HSTRLEN', retainedKey, ARGV[i])
  if bytes > room then
    reply[1] = bytes
    break
  end
  room = room - bytes
  reply[#reply + 1] = redis.call('HGET', retainedKey, ARGV[i])
end
return reply
