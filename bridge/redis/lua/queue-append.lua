#!lua
-- Appends a node's batch of messages to the queues of sessions of one partition. Batches are numbered, and
-- the node's writer signs each number: sending one again is harmless. A QoS 2 message that was applied before
-- is left out, whoever sends it again. One that goes to very many sessions comes in parts, in the order of
-- their places (bridge/publish/parts.ts), and alone: until the last part is there `published` has, beside the
-- highest number that is whole, up to which place the sessions have the next one, and of whoever sends that again
-- it takes what is missing. They are two fields, so that who knows nothing of parts reads the whole one. A session that is not
-- there may have ended, or Redis lost it and its owner is about to write it down again: its messages wait for
-- that, for a while.
-- KEYS   appended owners published due
-- MADE   queue
-- WRITES appended owners published due queue
-- ARGV   nodeId, batch (number-writer), messages a queue holds, bytes that it holds (the last message may
--        exceed them), how long messages wait for a session that is not there (ms), what a session's keys
--        begin with, and as MessagePack { { body, publisher's sid ("" unless QoS 2, "=": the message before
--        for sessions of another QoS), n, body … }, { sid, { indexes of its messages from 1 … }, sid … } },
--        up to which place its sessions have the numbered message once this is stored ("": all have it, as
--        with all messages that do not come in parts), "1": to tell what full queues dropped; keys are made of
--        the sids, with the tag of `appended`
-- REPLY  { messages dropped from full queues, the owner of each session: "" nobody, "?" it was found missing
--        before, false now …, and where it is to be told, of at most a hundred that were dropped: sid, body … }
-- FAILS  FENCED: the node was declared dead · ORDER batch after last
-- COST   O(messages × sessions), and for large messages O(pieces of 8 KB that the queue lies in)
local appendedKey, ownersKey, publishedKey, dueKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nodeId, batch, max, bytesMax = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local waitMs, begin = tonumber(ARGV[5]), ARGV[6] .. 'queue:'
local messages, sessions = unpack(cmsgpack.unpack(ARGV[7]))
local upTo, tellsDropped = tonumber(ARGV[8]), ARGV[9] == '1'

local stored = redis.call('HGET', appendedKey, nodeId)
if not stored then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
local number, last = tonumber(string.match(batch, '^%d+')), tonumber(string.match(stored, '^%d+')) or 0
if last > 9e15 then last = 0 end -- damaged: beyond what is counted exactly
local again = stored == batch
if not again and number ~= last + 1 then
  return redis.error_reply('ORDER batch ' .. batch .. ' after ' .. string.format('%.0f', last))
end
-- Every key that is written is read first: of a wrong type it fails before anything is written, and a second
-- attempt adds nothing.
redis.call('HLEN', publishedKey)
redis.call('ZCARD', dueKey)
for i = 1, #sessions, 2 do
  local queueKey = begin .. sessions[i]
  redis.call('LLEN', queueKey)
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Batches of a publisher's node are in order, so one number per publisher tells a duplicate (R7). Numbers
-- follow the clock: one that is far ahead of it is damaged.
local bodies, applied, places = {}, {}, {}
for i = 1, #messages / 3 do
  local body, publisher, n = messages[3 * i - 2], messages[3 * i - 1], messages[3 * i]
  bodies[i] = body
  if publisher == '=' then
    if not bodies[i - 1] then bodies[i] = false end
    places[i] = places[i - 1]
  elseif publisher ~= '' and not again then
    local highest, begun, place = applied[publisher], nil, nil
    if not highest then
      local noted = redis.call('HMGET', publishedKey, publisher, 'part:' .. publisher)
      highest = tonumber(noted[1] or '0') or 0
      begun, place = string.match(noted[2] or '', '^(%d+):(%d+)$')
      begun, place = tonumber(begun) or 0, tonumber(place)
      if begun <= highest or begun > now + 3e13 then begun = nil else highest = begun - 1 end
    end
    if highest > now + 3e13 and n <= now + 3e13 then highest = 0 end
    if n <= highest then bodies[i] = false
    else
      applied[publisher] = n
      if n == begun then places[i] = place end
    end
  end
end

-- What is no larger than this is bounded by the number of messages.
local smallMax = bytesMax / max
local sids, lists, largest = {}, {}, {}
for s = 1, #sessions, 2 do
  sids[#sids + 1] = sessions[s]
  local items, longest = {}, 0
  local first, second = string.byte(sessions[s], 2, 3)
  local place = (first or 0) * 128 + (second or 0)
  for _, index in ipairs(sessions[s + 1]) do
    local body = bodies[index]
    if body and place > (places[index] or -1) then
      items[#items + 1] = body
      longest = math.max(longest, #body)
    end
  end
  lists[#lists + 1] = items
  largest[#largest + 1] = longest
end
local reply, dropped, told = {}, 0, {}
local function drop(sid, body)
  dropped = dropped + 1
  if tellsDropped and #told < 200 then
    told[#told + 1] = sid
    told[#told + 1] = body
  end
end
for i = 1, #sids, 1000 do -- Lua's unpack has a limit
  for _, owner in ipairs(redis.call('HMGET', ownersKey, unpack(sids, i, math.min(i + 999, #sids)))) do
    reply[#reply + 1] = owner
  end
end
if not again then
  for i, owner in ipairs(reply) do
    if not owner then
      redis.call('HSET', ownersKey, sids[i], '?')
      redis.call('ZADD', dueKey, 'NX', now / 1000 + waitMs, 'e:' .. sids[i])
    end
    if #lists[i] > 0 then
      local queueKey = begin .. sids[i]
      local over = redis.call('RPUSH', queueKey, unpack(lists[i])) - max
      if over > 0 then
        for _, body in ipairs(redis.call('LPOP', queueKey, over)) do drop(sids[i], body) end
      end
      if largest[i] > smallMax then
        local excess = (redis.call('MEMORY', 'USAGE', queueKey, 'SAMPLES', 0) or 0) - bytesMax
        while excess > 0 and redis.call('LLEN', queueKey) > 1 do
          local body = redis.call('LPOP', queueKey)
          excess = excess - #body
          drop(sids[i], body)
        end
      end
    end
  end
  for publisher, n in pairs(applied) do
    if upTo then
      redis.call('HSET', publishedKey, publisher, string.format('%.0f', n - 1),
        'part:' .. publisher, string.format('%.0f:%.0f', n, math.max(upTo, places[1] or 0)))
    else
      redis.call('HSET', publishedKey, publisher, string.format('%.0f', n))
      redis.call('HDEL', publishedKey, 'part:' .. publisher)
    end
  end
  redis.call('HSET', appendedKey, nodeId, batch)
end
table.insert(reply, 1, dropped)
for _, one in ipairs(told) do reply[#reply + 1] = one end
return reply
