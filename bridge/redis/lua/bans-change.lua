#!lua
-- Bans somebody, or lifts a ban; its end is by this server's clock. Called twice it does the same.
-- KEYS   bans
-- WRITES bans
-- ARGV   whom: "c:", "u:" or "n:" and the name; seconds, 0 for ever, -1 lifts it; reason; how many there may be
-- REPLY  1: done; 0: there was none to lift, or there are as many as there may be
-- COST   O(1); O(bans) when there are as many as there may be: those that are over are forgotten
local bansKey = KEYS[1]
local whom, seconds, reason, max = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local time = redis.call('TIME')
-- Not counted up from what stands there: that may be damaged, or set back to one that somebody knows.
local function changed() redis.call('HSET', bansKey, 'version', time[1] .. '.' .. time[2]) end
if seconds < 0 then
  local gone = redis.call('HDEL', bansKey, whom)
  if gone == 1 then changed() end
  return gone
end
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HEXISTS', bansKey, whom) == 0 and redis.call('HLEN', bansKey) > max then
  local all = redis.call('HGETALL', bansKey)
  for i = 1, #all, 2 do
    local ends = tonumber(string.match(all[i + 1], '^(%d+) '))
    if all[i] ~= 'version' and ends ~= nil and ends > 0 and ends <= now then redis.call('HDEL', bansKey, all[i]) end
  end
  if redis.call('HLEN', bansKey) > max then return 0 end
end
local ends = seconds == 0 and 0 or now + seconds * 1000
redis.call('HSET', bansKey, whom, string.format('%.0f ', ends) .. reason)
changed()
return 1
