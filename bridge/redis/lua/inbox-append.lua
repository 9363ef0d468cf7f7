#!lua
-- Appends a sender's batch to the inbox of another node. Batches of a sender are numbered, and its writer
-- signs each number: sending one again is harmless, and the number of another writer, or a damaged one, never
-- makes a batch pass for stored. What a node hands on out of its own inbox comes by another lane, which has numbers
-- and room of its own: it never waits for what this inbox holds of the lanes before (ARCHITECTURE.md, "Inboxes that
-- wait for one another").
-- KEYS   stream senders state
-- WRITES stream senders state
-- ARGV   sender's node id, batch (number-writer), body (empty: asks whether there is room), bytes that may wait of the
--        lane, stallMs, lane ("": what was published; 1, 2 …: what was handed on so often)
-- REPLY  bytes of the lane in the inbox
-- FAILS  FENCED: the sender was declared dead · FULL: no room, try again · SEALED: none for
--        stallMs, and the reader made no progress meanwhile · GONE: no inbox, or its owner is dead · ORDER batch after
--        last
-- COST   O(1)
local streamKey, sendersKey, stateKey = KEYS[1], KEYS[2], KEYS[3]
local sender, batch, body, max, stallMs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lane = ARGV[6] or ''
local senderOfLane = lane == '' and sender or sender .. ' ' .. lane

local state = redis.call('HMGET', stateKey, 'sealed', 'in' .. lane, 'out' .. lane, 'progress', 'full')
local senders = redis.call('HMGET', sendersKey, sender, senderOfLane)
local stored = senders[2] or '0'
if senders[1] == 'F' then return redis.error_reply('FENCED ' .. sender .. ' was declared dead') end
local entered = tonumber(state[2]) or 0
local bytes = entered - (tonumber(state[3]) or 0)
-- Before anything else: what is in it is in it, whatever became of the inbox since.
if stored == batch then return bytes end
if state[1] == 'dead' then return redis.error_reply('GONE the node of the inbox is dead') end
if state[1] then return redis.error_reply('SEALED the inbox takes nothing any more') end
local number, last = tonumber(string.match(batch, '^%d+')), tonumber(string.match(stored, '^%d+')) or 0
if last > 9e15 then last = 0 end -- damaged: beyond what is counted exactly
if number ~= last + 1 then return redis.error_reply('ORDER ' .. batch .. ' after ' .. string.format('%.0f', last)) end
-- The counts may be damaged: an inbox of one entry, which stays to prove the reader's place, is not full.
if bytes >= max and redis.call('XLEN', streamKey) > 1 then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- From when it was full, not from the last progress: a reader that had nothing to read did not stand still.
  local full, progress = tonumber(state[5]) or 0, tonumber(state[4]) or 0
  if progress > now then progress = 0 end
  if full <= progress or full > now then redis.call('HSET', stateKey, 'full', string.format('%.0f', now))
  elseif now - full > stallMs * 1000 then
    redis.call('HSET', stateKey, 'sealed', '1')
    return redis.error_reply('SEALED the inbox takes nothing any more')
  end
  return redis.error_reply('FULL ' .. string.format('%.0f', bytes) .. ' bytes wait')
end
if body == '' then return bytes end
-- All keys were read, so that none is of a wrong type: what fails from here on fails before anything is written.
if not redis.call('XADD', streamKey, 'NOMKSTREAM', '*', 'b' .. lane, body) then
  return redis.error_reply('GONE no inbox')
end
redis.call('HSET', sendersKey, senderOfLane, batch)
redis.call('HSET', stateKey, 'in' .. lane, string.format('%.0f', entered + #body))
return bytes + #body
