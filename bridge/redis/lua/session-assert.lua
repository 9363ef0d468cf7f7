#!lua flags=allow-oom
-- After Redis lost it, or part of it, or went back to what it was: a session that is connected is written
-- down again, as its owner knows it. Also when Redis is full: it is nothing new, and without it the client
-- would hear nothing any more. Of two owners the later one has it.
-- KEYS   clients owners due wills session subscriptions inflight incoming appended tenants
-- WRITES clients owners due wills session subscriptions inflight incoming tenants
-- ARGV   clientId, sid, owner, epoch, claim, expiry (s, -1: never), will ("" for none), will delay (s), n,
--        the last change of its subscriptions, an earlier session of the client that may stand there again
--        ("" for none) and its epoch, then lists, each with its count before it: filters whose subscriptions
--        stay as they are · in flight id, entry, … · incoming id, n, … · field of session, value, …, which
--        are set where nothing stands; then filter, options …: all others
-- REPLY  { filters that were stored and are none of its … }
-- FAILS  NOTOWNER: the client has another session by now, whose sid stands last, or the session a later owner
--        · FENCED: the node was declared dead, or the partition lost its place
-- COST   O(subscriptions + in flight)
local clientsKey, ownersKey, dueKey, willsKey, sessionKey, subscriptionsKey, inflightKey, incomingKey, appendedKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local tenantsKey = KEYS[10]
local clientId, sid, owner, epoch, claim, will = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7]
local changed, earlier, earlierEpoch = ARGV[10], ARGV[11], ARGV[12]

-- @include session-tenant
local ownNode = string.match(owner, '^(%S+) %d+$')
if redis.call('HEXISTS', appendedKey, ownNode) == 0 then
  return redis.error_reply('FENCED ' .. ownNode .. ' has no entry here')
end
local current = redis.call('HGET', clientsKey, clientId)
local known = redis.call('HGET', ownersKey, sid)
local stored = redis.call('HMGET', sessionKey, 'client', 'claim', 'epoch')
redis.call('HLEN', willsKey) -- of a wrong type any of them fails before anything is written
redis.call('HLEN', inflightKey)
redis.call('HLEN', incomingKey)
redis.call('HLEN', tenantsKey)
redis.call('ZCARD', dueKey)
local stale = {}
for _, filter in ipairs(redis.call('HKEYS', subscriptionsKey)) do stale[filter] = true end
-- Another session of the client: one of this partition that is there. Anything else is no session's identifier.
if current and (string.sub(current, 1, 1) ~= string.sub(sid, 1, 1) or not string.match(current, '^[%w_-]+$')) then
  current = nil
end
if current and current ~= sid and current ~= earlier and redis.call('HEXISTS', ownersKey, current) == 1 then
  return redis.error_reply('NOTOWNER ' .. clientId .. ' has another session ' .. current)
end
-- A name that is nobody's is damaged, and so is our own with another epoch unless we claimed it again
-- meanwhile. Who has it before us, or released it before our claim, stands there again because a failover
-- lost the claim: what we release ourselves is not asserted.
local knownNode, knownEpoch = string.match(known or '', '^(%S+) (%d+)$')
if known == '' then knownEpoch = (tonumber(stored[3] or '') or 0) - 1 end
if (known == '' or (knownNode and knownNode ~= ownNode)) and tonumber(knownEpoch) >= tonumber(epoch) then
  return redis.error_reply('NOTOWNER ' .. sid .. ' is not owned by ' .. owner)
end
if knownNode == ownNode and known ~= owner and (tonumber(stored[2] or '') or 0) > tonumber(claim) then
  return redis.error_reply('NOTOWNER ' .. sid .. ' was claimed again')
end
if earlier ~= '' and current == earlier then
  -- It ended, and its will was published or void, before the failover.
  redis.call('HDEL', willsKey, earlier .. ':' .. earlierEpoch)
  redis.call('ZREM', dueKey, 'w:' .. earlier .. ':' .. earlierEpoch)
  redis.call('HSET', ownersKey, earlier, '')
  redis.call('ZADD', dueKey, 0, 'e:' .. earlier)
end
if redis.call('HSET', clientsKey, clientId, sid) == 1 then countOfTenant(tenantsKey, clientId, 1) end
redis.call('HSET', ownersKey, sid, owner)
redis.call('ZREM', dueKey, 'e:' .. sid)
redis.call('HSET', sessionKey, 'client', clientId, 'epoch', epoch, 'claim', claim, 'expiry', ARGV[6], 'willDelay', ARGV[8], 'n', ARGV[9], 'changed', changed)
if will ~= '' then redis.call('HSET', willsKey, sid .. ':' .. epoch, will) end
local at = 14 + tonumber(ARGV[13])
for i = 14, at - 1 do stale[ARGV[i]] = nil end
for _, eachKey in ipairs({ inflightKey, incomingKey, sessionKey }) do
  local count = tonumber(ARGV[at])
  for i = at + 1, at + count, 2 do redis.call('HSETNX', eachKey, ARGV[i], ARGV[i + 1]) end
  at = at + count + 1
end
for i = at, #ARGV, 2 do
  redis.call('HSET', subscriptionsKey, ARGV[i], ARGV[i + 1])
  stale[ARGV[i]] = nil
end
local reply = {}
for filter in pairs(stale) do
  redis.call('HDEL', subscriptionsKey, filter)
  reply[#reply + 1] = filter
end
redis.call('HSET', sessionKey, 'counted', redis.call('HLEN', subscriptionsKey) .. ' ' .. changed)
return reply
