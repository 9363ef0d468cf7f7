#!lua flags=allow-oom
-- After Redis lost it, or part of it: a session that is connected is written down again, as its owner knows it. Also when Redis is full:
-- it is nothing new, and without it the client would hear nothing any more.
-- KEYS   clients owners due wills session subscriptions inflight incoming
-- ARGV   clientId, sid, owner, epoch, claim, expiry (s, -1: never), will ("" for none), will delay (s), n, count of what follows next, in flight
--        id, entry, … (set where nothing stands), count of what follows next, incoming id, n, …, count of
--        what follows next, field of session, value, … (set where nothing stands), then filter, options …: all of them
-- REPLY  1
-- FAILS  NOTOWNER: the client has another session by now, or the session another owner
-- COST   O(subscriptions + in flight)
local clientsKey, ownersKey, dueKey, willsKey, sessionKey, subscriptionsKey, inflightKey, incomingKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local clientId, sid, owner, epoch, claim, will = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7]

local current = redis.call('HGET', clientsKey, clientId)
local known = redis.call('HGET', ownersKey, sid)
local stored = redis.call('HMGET', sessionKey, 'client', 'claim')
redis.call('HLEN', willsKey) -- of a wrong type any of them fails before anything is written
redis.call('HLEN', subscriptionsKey)
redis.call('HLEN', inflightKey)
redis.call('HLEN', incomingKey)
redis.call('ZCARD', dueKey)
-- Another session of the client: one of this partition that is there. Anything else is no session's identifier.
if current and current ~= sid and redis.call('HEXISTS', ownersKey, current) == 1 then return redis.error_reply('NOTOWNER ' .. clientId .. ' has another session') end
local ownNode, knownNode = string.match(owner, '^(%S+) %d+$'), string.match(known or '', '^(%S+) %d+$')
-- Released, or somebody else's. A name that is nobody's is damaged, and so is our own with another epoch unless we claimed it again meanwhile.
if known == '' or (knownNode and knownNode ~= ownNode) then return redis.error_reply('NOTOWNER ' .. sid .. ' is not owned by ' .. owner) end
if knownNode and known ~= owner and (tonumber(stored[2] or '') or 0) > tonumber(claim) then return redis.error_reply('NOTOWNER ' .. sid .. ' was claimed again') end
redis.call('HSET', clientsKey, clientId, sid)
redis.call('HSET', ownersKey, sid, owner)
redis.call('ZREM', dueKey, 'e:' .. sid)
redis.call('HSET', sessionKey, 'client', clientId, 'epoch', epoch, 'claim', claim, 'expiry', ARGV[6], 'willDelay', ARGV[8], 'n', ARGV[9])
if will ~= '' then redis.call('HSET', willsKey, sid .. ':' .. epoch, will) end
local at = 10
for _, eachKey in ipairs({ inflightKey, incomingKey, sessionKey }) do
  local count = tonumber(ARGV[at])
  for i = at + 1, at + count, 2 do redis.call('HSETNX', eachKey, ARGV[i], ARGV[i + 1]) end
  at = at + count + 1
end
redis.call('UNLINK', subscriptionsKey)
for i = at, #ARGV, 2 do redis.call('HSET', subscriptionsKey, ARGV[i], ARGV[i + 1]) end
return 1
