#!lua
-- Changes a session's subscriptions, or notes that the change is journaled. One change of a session is under
-- way at a time. How many there are after it is noted under its name: a claim knows by that when Redis has lost
-- some (session-claim.lua). When Redis is full nothing is added (scripts.ts).
-- KEYS   owners session subscriptions
-- WRITES session subscriptions
-- ARGV   sid, owner, change (a name of its own), then filter, options ("" removes), filter, options …; no
--        filters: it was journaled
-- REPLY  1
-- FAILS  NOTOWNER: the session is not the caller's any more
-- COST   O(filters)
local ownersKey, sessionKey, subscriptionsKey = KEYS[1], KEYS[2], KEYS[3]
local sid, owner, change = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', ownersKey, sid) ~= owner then
  return redis.error_reply('NOTOWNER ' .. sid .. ' is not owned by ' .. owner)
end
redis.call('HLEN', subscriptionsKey) -- of a wrong type it fails before anything is written
redis.call('HLEN', sessionKey)
if #ARGV == 3 then
  if redis.call('HGET', sessionKey, 'pending') == change then redis.call('HDEL', sessionKey, 'pending') end
  return 1
end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', subscriptionsKey, ARGV[i])
  else
    redis.call('HSET', subscriptionsKey, ARGV[i], ARGV[i + 1])
  end
end
local count = redis.call('HLEN', subscriptionsKey)
redis.call('HSET', sessionKey, 'pending', change, 'changed', change, 'counted', count .. ' ' .. change)
redis.call('HDEL', sessionKey, 'lost')
return 1
