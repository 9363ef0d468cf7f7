#!lua flags=allow-oom
-- Changes a session's subscriptions, or notes that changes are journaled.
-- KEYS   owners session subscriptions
-- ARGV   sid, owner, then filter, options ("" removes), filter, options …; no filters: one change was journaled
-- REPLY  1
-- FAILS  MOVED: the session is not the caller's any more
-- COST   O(filters)
local ownersKey, sessionKey, subscriptionsKey = KEYS[1], KEYS[2], KEYS[3]
local sid, owner = ARGV[1], ARGV[2]

if redis.call('HGET', ownersKey, sid) ~= owner then return redis.error_reply('MOVED ' .. sid .. ' is not owned by ' .. owner) end
if #ARGV == 2 then
  redis.call('HINCRBY', sessionKey, 'pending', -1)
  return 1
end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', subscriptionsKey, ARGV[i]) else redis.call('HSET', subscriptionsKey, ARGV[i], ARGV[i + 1]) end
end
redis.call('HINCRBY', sessionKey, 'pending', 1)
return 1
