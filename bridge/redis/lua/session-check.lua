#!lua flags=no-writes,allow-oom
-- Whether a partition still has what it must have of a node: its place, and some of the sessions whose
-- clients are connected to it.
-- KEYS   appended owners clients wills
-- MADE   session subscriptions
-- WRITES none
-- ARGV   nodeId, what a session's keys begin with, and of each session as MessagePack: { clientId, sid,
--        owner, epoch, claim, 1 when it has a will, how many subscriptions it has, their last change }; keys
--        are made of the sid, with the tag of `owners`
-- REPLY  { 1 when the node has its place, otherwise 0; 1 when neither owners nor clients are gone as a whole,
--        otherwise 0; indexes of sessions, from 1, of which something is missing … }
-- COST   O(sessions)
local appendedKey, ownersKey, clientsKey, willsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local reply = { redis.call('HEXISTS', appendedKey, ARGV[1]), redis.call('EXISTS', ownersKey) * redis.call('EXISTS', clientsKey) }
for i, session in ipairs(cmsgpack.unpack(ARGV[3])) do
  local clientId, sid, owner, epoch, claim, will, count, changed = unpack(session)
  local sessionKey, subscriptionsKey = ARGV[2] .. 'session:' .. sid, ARGV[2] .. 'subscriptions:' .. sid
  local stored = redis.call('HMGET', sessionKey, 'client', 'epoch', 'claim', 'changed')
  if redis.call('HGET', ownersKey, sid) ~= owner or redis.call('HGET', clientsKey, clientId) ~= sid or stored[1] ~= clientId or stored[2] ~= epoch
    or stored[3] ~= claim or (stored[4] or '') ~= changed or redis.call('HLEN', subscriptionsKey) ~= count
    or (will == 1 and redis.call('HEXISTS', willsKey, sid .. ':' .. epoch) == 0) then
    reply[#reply + 1] = i
  end
end
return reply
