#!lua flags=allow-oom
-- The connection of a session is gone: nobody owns it any more; its expiry and its will fall due. A session
-- that does not outlive its connection ends at once.
-- KEYS   clients owners due wills session subscriptions queue inflight incoming tenants
-- WRITES clients owners due session subscriptions queue inflight incoming tenants
-- ARGV   sid, owner (node id, space, epoch), when the publisher is forgotten if the session ends (ms from
--        now), expiry as its owner knows it (s, -1: never, "": it does not)
-- REPLY  { 1 released or 0 it was not the caller's, "1" when a will became due, subscriptions of an ended session }
-- COST   O(1), O(subscriptions) when it ends; freed in the background
local clientsKey, ownersKey, dueKey, willsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local tenantsKey = KEYS[10]
local sid, owner, forgetMs = ARGV[1], ARGV[2], tonumber(ARGV[3])
-- @include session-tenant

if redis.call('HGET', ownersKey, sid) ~= owner then return { 0, '0', {} } end
-- of a wrong type it fails before anything is written
for _, eachKey in ipairs({ willsKey, sessionKey, subscriptionsKey, inflightKey, incomingKey, tenantsKey }) do
  redis.call('HLEN', eachKey)
end
redis.call('LLEN', queueKey)
redis.call('ZCARD', dueKey)
redis.call('HLEN', clientsKey)
local session = redis.call('HMGET', sessionKey, 'client', 'epoch', 'expiry', 'willDelay', 'n')
-- What Redis lost of the session is taken for what costs nothing: it does not expire, its client is not known.
local expiry = tonumber(ARGV[4] ~= '' and ARGV[4] or session[3] or '-1') or -1
local epoch = string.match(owner, '(%d+)$') or session[2] or '0'
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local will, willDue = sid .. ':' .. epoch, '0'
if redis.call('HEXISTS', willsKey, will) == 1 then
  local delay = tonumber(session[4]) or 0
  if expiry >= 0 and delay > expiry then delay = expiry end -- no later than the session ends
  redis.call('ZADD', dueKey, now + delay * 1000, 'w:' .. will)
  if delay == 0 then willDue = '1' end
end
if expiry == 0 then
  local subscriptions = redis.call('HGETALL', subscriptionsKey)
  if session[1] and redis.call('HGET', clientsKey, session[1]) == sid then
    redis.call('HDEL', clientsKey, session[1])
    countOfTenant(tenantsKey, session[1], -1)
  end
  redis.call('HDEL', ownersKey, sid)
  if (session[5] or '0') ~= '0' then redis.call('ZADD', dueKey, now + forgetMs, 'f:' .. sid) end
  redis.call('UNLINK', sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey)
  return { 1, willDue, subscriptions }
end
redis.call('HSET', ownersKey, sid, '')
redis.call('HDEL', sessionKey, 'asked', 'leaves')
if expiry > 0 then redis.call('ZADD', dueKey, now + expiry * 1000, 'e:' .. sid) end
return { 1, willDue, {} }
