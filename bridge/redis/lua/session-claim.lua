#!lua
-- Makes a node the owner of a session, for a new connection of its client: resumes it, or ends it and begins
-- a new one. When Redis is full only for a client that has a session: it takes what fills Redis (scripts.ts).
-- KEYS   clients owners due wills session subscriptions queue inflight incoming tenants session(new) appended users
-- WRITES clients owners due wills session subscriptions queue inflight incoming tenants users
-- ARGV   1  clientId
--        2  known sid ("" for none)
--        3  new sid
--        4  nodeId
--        5  "1" for Clean Start
--        6  expiry (s, -1: never)
--        7  will ("" for none)
--        8  will delay (s)
--        9  when the publisher of a session that ends is forgotten (ms from now)
--        10 which claim of the node this is: the same when it is sent again
--        11 sessions that the partition holds
--        12 when it was first asked for ("": argument 15 tells it)
--        13 "1" when its client has left: only what an attempt before took is found out
--        14 "1" when an owner on another node is spared: it is to be asked first
--        15 when its CONNECT came, by the node's estimate of Redis' clock (µs)
--        16 its user ("" for none)
--        17 "1" when it may have a session that another user made
--        18 sessions of a user that outlive their connections (0: any number)
--        19 sessions of a tenant that the partition holds (0: any number)
-- REPLY  { sid, epoch, present, the owner before ("" for nobody), the epoch of the known session whose will
--        became due, or "0", subscriptions {filter, options …}, in flight {id, entry …}, incoming {id, n …},
--        n, the change that is not journaled or "", replays that are owed {field, value …}, the last change
--        or "", how many subscriptions Redis has lost } of an ended session the subscriptions are those of the one
--        that ended, to be forgotten
-- FAILS  STALE asked sid [leaves owner]: the client has another session than the caller knew, or one whose
--        owner is spared; to be sent again with both; leaves: "1" when the owner has said that it is about to
--        release it · FENCED: the node was declared dead · NOTOWNER: a claim that was asked for later has the
--        session, or the client has left · QUOTA: there are as many sessions as there may be, and this one
--        would be a further one that outlives its connection · FOREIGN: another user made the session, and its time
--        is not over; before anybody is asked for it · USERQUOTA: the user has as many sessions as one may have · TENANTQUOTA: the tenant has
-- COST   O(subscriptions + in flight + sessions of the user, where they are bounded), or O(1) and freeing in the background
local clientsKey, ownersKey, dueKey, willsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey, tenantsKey, newSessionKey =
  KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local appendedKey = KEYS[12]
local clientId, known, newSid, nodeId, cleanStart, expiry, will, willDelay =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', ARGV[6], ARGV[7], ARGV[8]
local believedUs = 1000000
local forgetMs, claim, sessionsMax, left, spares =
  tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11]), ARGV[13] == '1', ARGV[14] == '1'
local usersKey = KEYS[13]
local user, mayTakeAnybodys, userMax = ARGV[16] or '', ARGV[17] == '1', tonumber(ARGV[18]) or 0
local tenantMax = tonumber(ARGV[19]) or 0
-- @include session-tenant

if redis.call('HEXISTS', appendedKey, nodeId) == 0 then
  return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead')
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- An estimate is believed for a while. Of two CONNECTs that come to one node the later one is never the
-- earlier one here: the node ends the earlier one, who may have asked the owner for the session by then, and
-- if the later one had to give way nobody would be left.
local asked = tonumber(ARGV[12]) or math.max(now - believedUs, math.min(tonumber(ARGV[15]) or now, now))
local current = redis.call('HGET', clientsKey, clientId) or ''
-- No session of this partition has such an identifier: damaged, as if there were none.
if string.sub(current, 1, 1) ~= string.sub(newSid, 1, 1) or not string.match(current, '^[%w_-]+$') then current = '' end

local stale = 'STALE ' .. string.format('%.0f', asked) .. ' ' .. current
if current ~= known then return redis.error_reply(stale) end
-- Every key is read before one is written: of a wrong type it fails here.
for _, eachKey in ipairs({ ownersKey, willsKey, sessionKey, subscriptionsKey, inflightKey, incomingKey, tenantsKey }) do
  redis.call('HLEN', eachKey)
end
redis.call('ZCARD', dueKey)
redis.call('LLEN', queueKey)
local client = redis.call('HGET', sessionKey, 'client')
if client and client ~= clientId then known = '' end -- another client's session: it is not ours to touch
-- Two users that claim one Client Identifier at two nodes at once: the first of the two scripts makes the session its
-- user's, and the second one finds that. A session whose time is over is nobody's.
if known ~= '' and not mayTakeAnybodys then
  local owner = redis.call('HGET', sessionKey, 'user')
  local ends = tonumber(redis.call('ZSCORE', dueKey, 'e:' .. known) or '')
  if owner and owner ~= user and not (ends and ends <= now / 1000) then
    return redis.error_reply('FOREIGN the session of this Client Identifier is another user\'s')
  end
end
-- A client whose session ends with its connection counts as new: it had none that outlives a connection.
local others = redis.call('HLEN', clientsKey) - (known == '' and 0 or 1)
if expiry ~= '0' and others >= sessionsMax and (known == '' or redis.call('HGET', sessionKey, 'expiry') == '0') then
  return redis.error_reply('QUOTA ' .. sessionsMax .. ' sessions in this partition')
end
local tenant = tenantMax > 0 and expiry ~= '0' and tenantOf(clientId)
if tenant and (known == '' or redis.call('HGET', sessionKey, 'expiry') == '0') then
  local has = (tonumber(redis.call('HGET', tenantsKey, tenant) or '') or 0) - (known == '' and 0 or 1)
  if has >= tenantMax then return redis.error_reply('TENANTQUOTA ' .. tenantMax .. ' sessions of the tenant') end
end
-- Of those that a user has had, those that are there: nobody strikes out what has ended.
local function alive(sids)
  local there = {}
  for sid in string.gmatch(sids, '%S+') do
    if redis.call('HEXISTS', ownersKey, sid) == 1 then there[#there + 1] = sid end
  end
  return there
end
local had
if userMax > 0 and user ~= '' and expiry ~= '0' then
  had = alive(redis.call('HGET', usersKey, user) or '')
  local isCounted = false
  for _, sid in ipairs(had) do isCounted = isCounted or sid == known end
  if isCounted then had = nil
  elseif #had >= userMax and (known == '' or redis.call('HGET', sessionKey, 'user') ~= user
    or redis.call('HGET', sessionKey, 'expiry') == '0') then
    return redis.error_reply('USERQUOTA ' .. userMax .. ' sessions of the user')
  end
end
local epoch, before, willDue, ends, again = now, '', '0', false, false
if known == '' and left then return redis.error_reply('NOTOWNER ' .. clientId .. ' has left') end

if known ~= '' then
  before = redis.call('HGET', ownersKey, known) or ''
  -- Redis lost all of it.
  ends = before == '' and not client and redis.call('HEXISTS', ownersKey, known) == 0
    and redis.call('EXISTS', subscriptionsKey, queueKey, inflightKey, incomingKey) == 0
  if before == '?' then before = '' end
  local last = redis.call('HMGET', sessionKey, 'epoch', 'willDelay', 'expiry', 'claim', 'asked')
  -- The reply to this very claim was lost: its own session goes on, and its own will is no earlier one.
  again = string.sub(before, 1, #nodeId + 1) == nodeId .. ' ' and last[4] == claim
  -- Of two CONNECTs the later one has the session, however often the earlier one had to ask again. A clock of
  -- Redis that was set back tells nobody's order.
  local other = tonumber(last[5]) or 0
  if not again and (left or (before ~= '' and other > asked and other <= now)) then
    return redis.error_reply('NOTOWNER ' .. clientId .. ' has another connection')
  end
  local node = spares and not again and string.match(before, '^(.*) %d+$')
  if node and node ~= nodeId and redis.call('HEXISTS', appendedKey, node) == 1 then
    local leaves = redis.call('HGET', sessionKey, 'leaves') == before and '1' or '0'
    return redis.error_reply(stale .. ' ' .. leaves .. ' ' .. before)
  end
  local lastEpoch = last[1] or '0'
  local lastNumber = tonumber(lastEpoch) or 0
  if epoch <= lastNumber and lastNumber < 9e15 then epoch = lastNumber + 1 end
  local expires = redis.call('ZSCORE', dueKey, 'e:' .. known)
  -- One that does not outlive its connection ends with it, also when we hear of the new connection first
  -- [MQTT-3.1.2-23].
  ends = ends or not again and (cleanStart or last[3] == '0' or (expires and tonumber(expires) <= now / 1000))
  -- The will of the connection before: a return within its delay cancels it; a session that ends sends it
  -- [MQTT-3.1.3-9]. One that was taken to be published stands under another name: nothing changes that.
  local old = known .. ':' .. lastEpoch
  if again then redis.call('HDEL', willsKey, old)
  elseif redis.call('HEXISTS', willsKey, old) == 1 then
    local waiting = redis.call('ZSCORE', dueKey, 'w:' .. old)
    if ends or (not waiting and (tonumber(last[2]) or 0) == 0) then
      redis.call('ZADD', dueKey, now / 1000, 'w:' .. old)
      willDue = lastEpoch
    elseif not (waiting and tonumber(waiting) <= now / 1000) then
      redis.call('ZREM', dueKey, 'w:' .. old)
      redis.call('HDEL', willsKey, old)
    end
  end
  redis.call('ZREM', dueKey, 'e:' .. known)
end

local sid, present = known, 1
local subscriptions, inflight, incoming, rest, replays, lost = {}, {}, {}, {}, {}, 0
if known == '' or ends then
  sid, present = newSid, 0
  if known ~= '' then
    subscriptions = redis.call('HGETALL', subscriptionsKey)
    if (redis.call('HGET', sessionKey, 'n') or '0') ~= '0' then
      redis.call('ZADD', dueKey, now / 1000 + forgetMs, 'f:' .. known)
    end
    redis.call('HDEL', ownersKey, known)
    redis.call('UNLINK', sessionKey, subscriptionsKey, queueKey, inflightKey, incomingKey)
  end
  if redis.call('HSET', clientsKey, clientId, sid) == 1 then countOfTenant(tenantsKey, clientId, 1) end
  sessionKey = newSessionKey
  redis.call('HSET', sessionKey, 'client', clientId)
else
  subscriptions = redis.call('HGETALL', subscriptionsKey)
  inflight = redis.call('HGETALL', inflightKey)
  incoming = redis.call('HGETALL', incomingKey)
  rest = redis.call('HMGET', sessionKey, 'n', 'pending', 'replays', 'changed', 'counted', 'lost')
  -- Noted until its client changes its subscriptions: that it is told of it nobody knows before that. It is told that
  -- it has no session, and forgets what it was publishing at QoS 2.
  local count, change = string.match(rest[5] or '', '^(%d+) (.*)$')
  if count and change == (rest[4] or '') then lost = math.max(0, tonumber(count) - #subscriptions / 2) end
  if rest[6] then lost = math.max(lost, 1) end
  if lost > 0 then
    redis.call('HSET', sessionKey, 'lost', '1')
    redis.call('UNLINK', incomingKey)
    incoming = {}
  end
  local fields = rest[3] and redis.call('HGETALL', sessionKey) or {}
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 7) == 'replay ' then
      replays[#replays + 1] = fields[i]
      replays[#replays + 1] = fields[i + 1]
    end
  end
end
local epochText = string.format('%.0f', epoch)
redis.call('HSET', ownersKey, sid, nodeId .. ' ' .. epochText)
redis.call('HSET', sessionKey, 'epoch', epochText, 'expiry', expiry, 'willDelay', willDelay, 'claim', claim,
  'asked', string.format('%.0f', asked))
if user ~= '' then redis.call('HSET', sessionKey, 'user', user) end -- also one that nobody's client made
if had or (userMax > 0 and user ~= '' and expiry ~= '0' and sid ~= known) then
  had = had or alive(redis.call('HGET', usersKey, user) or '')
  had[#had + 1] = sid
  redis.call('HSET', usersKey, user, table.concat(had, ' '))
  -- With each one that comes, two that may have gone: what is kept of users who went is no more than of those there are.
  for _, other in ipairs(redis.call('HRANDFIELD', usersKey, 2)) do
    if #alive(redis.call('HGET', usersKey, other)) == 0 then redis.call('HDEL', usersKey, other) end
  end
end
if will ~= '' then redis.call('HSET', willsKey, sid .. ':' .. epochText, will) end
return { sid, epochText, present, before, willDue, subscriptions, inflight, incoming, rest[1] or '0', rest[2] or '', replays, rest[4] or '', lost }
