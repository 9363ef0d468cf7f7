#!lua flags=allow-oom
-- After Redis lost its data: a session that is connected is written down again, as its owner knows it.
-- KEYS   clients owners wills session subscriptions
-- ARGV   clientId, sid, owner, epoch, expiry (s, -1: never), will ("" for none), will delay (s), n, filter, options …
-- REPLY  1
-- FAILS  NOTOWNER: the client has another session by now
-- COST   O(subscriptions)
local clientsKey, ownersKey, willsKey, sessionKey, subscriptionsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local clientId, sid, owner, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local current = redis.call('HGET', clientsKey, clientId)
if current and current ~= sid then return redis.error_reply('NOTOWNER ' .. clientId .. ' has another session') end
local known = redis.call('HGET', ownersKey, sid)
if known and known ~= owner then return redis.error_reply('NOTOWNER ' .. sid .. ' is not owned by ' .. owner) end
redis.call('HSET', clientsKey, clientId, sid)
redis.call('HSET', ownersKey, sid, owner)
redis.call('HSET', sessionKey, 'client', clientId, 'epoch', epoch, 'expiry', ARGV[5], 'willDelay', ARGV[7], 'n', ARGV[8])
if ARGV[6] ~= '' then redis.call('HSET', willsKey, sid .. ':' .. epoch, ARGV[6]) end
for i = 9, #ARGV, 2 do redis.call('HSET', subscriptionsKey, ARGV[i], ARGV[i + 1]) end
return 1
