#!lua flags=allow-oom
-- Ends a session whose Session Expiry Interval has passed [MQTT-3.1.2-23].
-- KEYS   clients owners due wills session subscriptions queue inflight incoming tenants
-- WRITES clients owners due session subscriptions queue inflight incoming tenants
-- ARGV   sid, when the publisher is forgotten (ms from now)
-- REPLY  { 1 ended, 2 it ended without having been written down again, or 0 it is not due or has an owner,
--        "1" when a will became due, its subscriptions }
-- COST   O(subscriptions); freed in the background
local clientsKey, ownersKey, dueKey, willsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local tenantsKey = KEYS[10]
local sid = ARGV[1]
-- @include session-tenant

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
-- of a wrong type it fails before anything is written
for _, eachKey in ipairs({ willsKey, sessionKey, subscriptionsKey, inflightKey, incomingKey, tenantsKey }) do
  redis.call('HLEN', eachKey)
end
redis.call('LLEN', queueKey)
redis.call('ZCARD', dueKey)
redis.call('HLEN', clientsKey)
local due = redis.call('ZSCORE', dueKey, 'e:' .. sid)
if not due or tonumber(due) > now then return { 0, '0', {} } end
redis.call('ZREM', dueKey, 'e:' .. sid)
local owner = redis.call('HGET', ownersKey, sid)
local session = redis.call('HMGET', sessionKey, 'client', 'epoch', 'n', 'expiry')
if owner == '?' and session[1] then
  -- Its owner's name alone was lost: it is a session that nobody is connected to.
  local expiry = tonumber(session[4] or '') or -1
  redis.call('HSET', ownersKey, sid, '')
  if expiry > 0 then redis.call('ZADD', dueKey, now + expiry * 1000, 'e:' .. sid) end
  if expiry ~= 0 then return { 0, '0', {} } end
elseif owner and owner ~= '' and owner ~= '?' then return { 0, '0', {} } end
local will, willDue = sid .. ':' .. (session[2] or '0'), '0'
if redis.call('HEXISTS', willsKey, will) == 1 then
  redis.call('ZADD', dueKey, now, 'w:' .. will)
  willDue = '1'
end
local subscriptions = redis.call('HGETALL', subscriptionsKey)
if session[1] and redis.call('HGET', clientsKey, session[1]) == sid then
  redis.call('HDEL', clientsKey, session[1])
  countOfTenant(tenantsKey, session[1], -1)
end
redis.call('HDEL', ownersKey, sid)
if (session[3] or '0') ~= '0' then redis.call('ZADD', dueKey, now + tonumber(ARGV[2]), 'f:' .. sid) end
redis.call('UNLINK', sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey)
return { owner == '?' and 2 or 1, willDue, subscriptions }
