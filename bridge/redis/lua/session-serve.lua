#!lua flags=allow-oom
-- What owners write about their sessions' messages, for many sessions at once: deliveries that are acknowledged, received or
-- begin, and QoS 2 publishes that come in or are released. Sent again it changes nothing: an identifier that is in flight
-- already was moved by the call whose reply was lost.
-- KEYS   owners, then of each session: session queue inflight incoming
-- ARGV   of each session: sid, owner, n, then seven lists, each with its count before it: acknowledged ids · received ids ·
--        incoming id, n, id, n … · released ids · id, message, id, message … that begin without having been queued · free ids to move
--        messages under · fields of session, values … ("" removes). Before the fifth the first order, before the sixth how many bytes may
--        come (the last message may exceed it)
-- REPLY  of each session: { length of the queue, entry, entry … } in the order of the free ids, or "NOTOWNER"
-- COST   O(ids + fields)
local ownersKey = KEYS[1]
local at, reply = 1, {}

local function list()
  local count, items = tonumber(ARGV[at]), {}
  for i = 1, count do items[i] = ARGV[at + i] end
  at = at + count + 1
  return items
end

-- Lua's unpack has a limit, which a client reaches that releases thousands of identifiers in one breath.
local function call(command, key, items)
  for i = 1, #items, 1000 do redis.call(command, key, unpack(items, i, math.min(i + 999, #items))) end
end

for s = 2, #KEYS, 4 do
  local sessionKey, queueKey, inflightKey, incomingKey = KEYS[s], KEYS[s + 1], KEYS[s + 2], KEYS[s + 3]
  local sid, owner, n = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local acknowledged, received, incoming, released = list(), list(), list(), list()
  local order = tonumber(ARGV[at])
  at = at + 1
  local given = list()
  local room = tonumber(ARGV[at])
  at = at + 1
  local free, fields = list(), list()
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
      if fields[i + 1] == '' then redis.call('HDEL', sessionKey, fields[i]) else redis.call('HSET', sessionKey, fields[i], fields[i + 1]) end
    end
    for i = 1, #given, 2 do
      redis.call('HSETNX', inflightKey, given[i], order .. ' ' .. given[i + 1])
      order = order + 1
    end
    local moved = { 0 }
    for i, id in ipairs(free) do
      if room <= 0 then break end
      local entry = redis.call('HGET', inflightKey, id)
      if entry then moved[#moved + 1] = string.match(entry, '^%d+ (.*)$') or ''
      else
        local body = redis.call('LPOP', queueKey)
        if not body then break end
        room = room - #body
        redis.call('HSET', inflightKey, id, (order + i - 1) .. ' ' .. body)
        moved[#moved + 1] = body
      end
    end
    moved[1] = redis.call('LLEN', queueKey)
    reply[#reply + 1] = moved
  end
end
return reply
