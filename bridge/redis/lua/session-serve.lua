#!lua flags=allow-oom
-- What owners write about their sessions' messages, for many sessions at once: deliveries that are
-- acknowledged, received or begin, and QoS 2 publishes that come in or are released. Sent again it changes
-- nothing: an identifier that is in flight already was moved by the call whose reply was lost.
-- KEYS   owners
-- MADE   session queue inflight incoming
-- WRITES session queue inflight incoming
-- ARGV   what a session's keys begin with, and of each session as MessagePack: { sid, owner, n, acknowledged
--        ids, received ids, { incoming id, n, id, n … }, released ids, the first order of what comes next, {
--        id, message, id, message … that begin without having been queued }, how many bytes may come (the
--        last message may exceed it), free ids to move messages under, { field of session, value … (""
--        removes) } }; keys are made of the sid, with the tag of `owners`
-- REPLY  of each session: { length of the queue, entry, entry … } in the order of the free ids, or "NOTOWNER"
-- COST   O(ids + fields)
local ownersKey, begin = KEYS[1], ARGV[1]
local reply = {}

-- Lua's unpack has a limit, which a client reaches that releases thousands of identifiers in one breath.
local function call(command, key, items)
  for i = 1, #items, 1000 do redis.call(command, key, unpack(items, i, math.min(i + 999, #items))) end
end

for _, session in ipairs(cmsgpack.unpack(ARGV[2])) do
  local sid, owner, n, acknowledged, received, incoming, released, order, given, room, free, fields = unpack(session)
  local sessionKey, queueKey = begin .. 'session:' .. sid, begin .. 'queue:' .. sid
  local inflightKey, incomingKey = begin .. 'inflight:' .. sid, begin .. 'incoming:' .. sid
  if redis.call('HGET', ownersKey, sid) ~= owner then reply[#reply + 1] = 'NOTOWNER'
  else
    call('HDEL', inflightKey, acknowledged)
    for _, id in ipairs(received) do
      local entry = redis.call('HGET', inflightKey, id)
      if entry then redis.call('HSET', inflightKey, id, string.match(entry, '^%d+')) end
    end
    call('HSET', incomingKey, incoming)
    if #incoming > 0 then redis.call('HSET', sessionKey, 'n', n) end
    call('HDEL', incomingKey, released)
    for i = 1, #fields, 2 do
      if fields[i + 1] == '' then
        redis.call('HDEL', sessionKey, fields[i])
      else
        redis.call('HSET', sessionKey, fields[i], fields[i + 1])
      end
    end
    for i = 1, #given, 2 do
      redis.call('HSETNX', inflightKey, given[i], string.format('%.0f ', order) .. given[i + 1])
      order = order + 1
    end
    local moved = { 0 }
    for i, id in ipairs(free) do
      if room <= 0 then break end
      local entry = redis.call('HGET', inflightKey, id)
      local body = entry and (string.match(entry, '^%d+ (.*)$') or '') or redis.call('LPOP', queueKey)
      if not body then break end
      room = room - #body
      if not entry then redis.call('HSET', inflightKey, id, string.format('%.0f ', order + i - 1) .. body) end
      moved[#moved + 1] = body
    end
    moved[1] = redis.call('LLEN', queueKey)
    reply[#reply + 1] = moved
  end
end
return reply
