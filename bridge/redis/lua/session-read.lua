#!lua flags=no-writes
-- All of a session as it is at this moment: `backup`.
-- KEYS   clients owners due wills session subscriptions queue inflight incoming
-- WRITES none
-- ARGV   clientId, sid
-- REPLY  {}: it is not that client's session any more; { this server's time (ms), owner, "" for nobody, { user or false,
--        expiry (s, -1: never), epoch }, when it ends (ms) or false, will of its last connection that waits for its
--        delay or false, when that is due (ms) or false, subscriptions {filter, options …}, in flight {id, entry …},
--        incoming {id, n …}, queue {message …} }
-- COST   O(all of it)
local clientsKey, ownersKey, dueKey, willsKey, sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local clientId, sid = ARGV[1], ARGV[2]

if redis.call('HGET', clientsKey, clientId) ~= sid then return {} end
local time = redis.call('TIME')
local session = redis.call('HMGET', sessionKey, 'user', 'expiry', 'epoch')
local name = sid .. ':' .. (session[3] or '0')
local will, due = redis.call('HGET', willsKey, name), redis.call('ZSCORE', dueKey, 'w:' .. name)
return {
  string.format('%.3f', time[1] * 1000 + time[2] / 1000),
  redis.call('HGET', ownersKey, sid) or '',
  session,
  redis.call('ZSCORE', dueKey, 'e:' .. sid),
  due and will,
  due,
  redis.call('HGETALL', subscriptionsKey),
  redis.call('HGETALL', inflightKey),
  redis.call('HGETALL', incomingKey),
  redis.call('LRANGE', queueKey, 0, -1),
}
