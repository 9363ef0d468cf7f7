#!lua
-- Appends a node's batch of messages to the queues of sessions of one partition. Batches are numbered: sending one again
-- is harmless. A QoS 2 message that was applied before is left out, whoever sends it again.
-- KEYS   appended owners published, then the queue of each session
-- ARGV   nodeId, batch number, messages a queue holds, count of messages, then of each: body, publisher's sid ("" unless
--        QoS 2, "=": the message before for sessions of another QoS), n, then of each session: sid, count, indexes of its messages from 1 …
-- REPLY  { messages dropped from full queues, the owner of each session: "" nobody, false it is gone … }
-- FAILS  FENCED: the node was declared dead · ORDER batch after last
-- COST   O(messages × sessions)
local appendedKey, ownersKey, publishedKey = KEYS[1], KEYS[2], KEYS[3]
local nodeId, batch, max, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local last = redis.call('HGET', appendedKey, nodeId)
if not last then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
last = tonumber(last)
if batch > last + 1 then return redis.error_reply('ORDER batch ' .. batch .. ' after ' .. last) end
local again = batch <= last

-- Batches of a publisher's node are in order, so one number per publisher tells a duplicate (ATTACKS 13).
local bodies, applied, at = {}, {}, 5
for i = 1, count do
  local body, publisher, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  bodies[i] = body
  if publisher == '=' then
    if not bodies[i - 1] then bodies[i] = false end
  elseif publisher ~= '' and not again then
    local highest = applied[publisher] or tonumber(redis.call('HGET', publishedKey, publisher) or '0')
    if n <= highest then bodies[i] = false else applied[publisher] = n end
  end
end

local sids, lists = {}, {}
for k = 4, #KEYS do
  local total = tonumber(ARGV[at + 1])
  sids[#sids + 1] = ARGV[at]
  local items = {}
  for i = 1, total do
    local body = bodies[tonumber(ARGV[at + 1 + i])]
    if body then items[#items + 1] = body end
  end
  lists[#lists + 1] = items
  at = at + 2 + total
end
local reply, dropped = {}, 0
for i = 1, #sids, 1000 do -- Lua's unpack has a limit
  for _, owner in ipairs(redis.call('HMGET', ownersKey, unpack(sids, i, math.min(i + 999, #sids)))) do reply[#reply + 1] = owner end
end
if not again then
  for i, owner in ipairs(reply) do
    if owner and #lists[i] > 0 then
      local queueKey = KEYS[3 + i]
      local over = redis.call('RPUSH', queueKey, unpack(lists[i])) - max
      if over > 0 then
        redis.call('LPOP', queueKey, over)
        dropped = dropped + over
      end
    end
  end
  for publisher, n in pairs(applied) do redis.call('HSET', publishedKey, publisher, string.format('%.0f', n)) end
  redis.call('HSET', appendedKey, nodeId, batch)
end
table.insert(reply, 1, dropped)
return reply
