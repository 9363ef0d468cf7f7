#!lua
-- Gives a session that was built apart to its client, whole, unless the client has one already; then it ends
-- with the next sweep.
-- KEYS   clients owners due tenants
-- WRITES clients due tenants
-- ARGV   clientId, sid, when it ends (ms from now, -1: never)
-- REPLY  1 the client's session is this one, 0 the client has another or this one has ended
-- COST   O(log due)
local clientsKey, ownersKey, dueKey, tenantsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local clientId, sid, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
-- @include session-tenant

redis.call('HLEN', tenantsKey)
redis.call('ZCARD', dueKey) -- of a wrong type it fails before anything is written
local current = redis.call('HGET', clientsKey, clientId)
if current == sid then return 1 end
if redis.call('HEXISTS', ownersKey, sid) == 0 then return 0 end
if current then
  redis.call('ZADD', dueKey, 0, 'e:' .. sid)
  return 0
end
if left < 0 then redis.call('ZREM', dueKey, 'e:' .. sid)
else
  local time = redis.call('TIME')
  redis.call('ZADD', dueKey, time[1] * 1000 + time[2] / 1000 + left, 'e:' .. sid)
end
redis.call('HSET', clientsKey, clientId, sid)
countOfTenant(tenantsKey, clientId, 1)
return 1
