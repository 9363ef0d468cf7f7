#!lua
-- Appends a sender's batch to the inbox of another node. Batches of a sender are numbered: sending one again is harmless.
-- KEYS   stream senders state
-- ARGV   sender's node id, batch number, body, high-water mark (bytes), stallMs
-- REPLY  bytes in the inbox
-- FAILS  FENCED: the sender was declared dead · FULL: above the mark, try again · SEALED: above it for stallMs, and the reader
--        made no progress meanwhile · GONE: no inbox · ORDER batch after last
-- COST   O(1)
local streamKey, sendersKey, stateKey = KEYS[1], KEYS[2], KEYS[3]
local sender, batch, body, mark, stallMs = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local state = redis.call('HMGET', stateKey, 'sealed', 'in', 'out', 'progress', 'full')
if state[1] then return redis.error_reply('SEALED the inbox takes nothing any more') end
local last = redis.call('HGET', sendersKey, sender) or '0'
if last == 'F' then return redis.error_reply('FENCED ' .. sender .. ' was declared dead') end
local bytes = (tonumber(state[2]) or 0) - (tonumber(state[3]) or 0)
if batch <= tonumber(last) then return bytes end
if batch > tonumber(last) + 1 then return redis.error_reply('ORDER ' .. batch .. ' after ' .. last) end
if bytes >= mark then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- From when it was full, not from the last progress: a reader that had nothing to read did not stand still.
  local full = tonumber(state[5]) or 0
  if full <= (tonumber(state[4]) or 0) then redis.call('HSET', stateKey, 'full', string.format('%.0f', now))
  elseif now - full > stallMs * 1000 then
    redis.call('HSET', stateKey, 'sealed', '1')
    return redis.error_reply('SEALED the inbox takes nothing any more')
  end
  return redis.error_reply('FULL ' .. bytes .. ' bytes wait')
end
if not redis.call('XADD', streamKey, 'NOMKSTREAM', '*', 'b', body) then return redis.error_reply('GONE no inbox') end
redis.call('HSET', sendersKey, sender, batch)
redis.call('HINCRBY', stateKey, 'in', #body)
return bytes + #body
