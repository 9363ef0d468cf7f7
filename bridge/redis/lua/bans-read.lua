#!lua flags=no-writes
-- The bans, unless they are those that the caller knows.
-- KEYS   bans
-- WRITES none
-- ARGV   the version that the caller knows, "" for none
-- REPLY  { version }: nothing changed; { version, this server's time (ms), whom, end (ms, 0 never) and reason … }
-- COST   O(1), O(bans) when they changed
local bansKey = KEYS[1]
local known = ARGV[1]

local version = redis.call('HGET', bansKey, 'version') or '0'
if version == known then return { version } end
local time = redis.call('TIME')
local reply = { version, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)) }
local all = redis.call('HGETALL', bansKey)
for i = 1, #all, 2 do
  if all[i] ~= 'version' then
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = all[i + 1]
  end
end
return reply
