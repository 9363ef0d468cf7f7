#!lua
-- Sets or removes a user, or the rules, and tells all nodes. Called twice it does the same.
-- KEYS   access
-- WRITES access
-- ARGV   field: "rules", or "u:" and the name of a user; "1" to set it, "0" to remove it; value; fields that there may be
-- REPLY  1: done; 0: there was none to remove, or there are as many as there may be
-- COST   O(1)
local accessKey = KEYS[1]
local field, sets, value, max = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])

local time = redis.call('TIME')
if sets then
  if redis.call('HEXISTS', accessKey, field) == 0 and redis.call('HLEN', accessKey) >= max then return 0 end
  redis.call('HSET', accessKey, field, value)
elseif redis.call('HDEL', accessKey, field) == 0 then return 0
end
-- Not counted up from what stands there: that may be damaged, or set back to one that somebody knows.
redis.call('HSET', accessKey, 'version', time[1] .. '.' .. time[2])
return 1
