#!lua flags=allow-oom
-- Appends one entry of changes to the journal and to the snapshot of the node that makes them. Also when
-- Redis is full: without takeovers and what is cleared nobody could come and take what fills it.
-- KEYS   generation nodes batches position journal routes(node)
-- WRITES batches position journal routes
-- ARGV   nodeId, batch (number-writer), generation, entries the journal holds, bytes it holds, entry, "1" to
--        begin the snapshot anew, then filter, kind, filter, kind …
-- REPLY  the journal's position, which covers the entry (also when the batch was appended before)
-- FAILS  AMNESIA · FENCED · ORDER
-- COST   O(changes)
local generationKey, nodesKey, batchesKey, positionKey, journalKey, routesKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local nodeId, batch, generation, length, bytesMax, entry, anew =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]

if redis.call('GET', generationKey) ~= generation then return redis.error_reply('AMNESIA another data set') end
local stored = redis.call('HGET', batchesKey, nodeId)
-- Who is declared dead loses both: one alone was lost, and the next renewal writes it down again.
if not stored and redis.call('HEXISTS', nodesKey, nodeId) == 0 then
  return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead')
end
if stored == batch then return tonumber(redis.call('GET', positionKey) or '0') or 0 end
local number, last = tonumber(string.match(batch, '^%d+')), tonumber(string.match(stored or '', '^%d+')) or 0
if last > 9e15 then last = 0 end -- damaged: beyond what is counted exactly
if number ~= last + 1 then
  return redis.error_reply('ORDER batch ' .. batch .. ' after ' .. string.format('%.0f', last))
end

redis.call('HLEN', routesKey) -- of a wrong type it fails before anything is written
-- @include journal-entry
redis.call('HSET', batchesKey, nodeId, batch)
if anew == '1' then redis.call('UNLINK', routesKey) end
for i = 8, #ARGV, 2 do
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', routesKey, ARGV[i])
  else
    redis.call('HSET', routesKey, ARGV[i], ARGV[i + 1])
  end
end
local held = redis.call('XLEN', journalKey)
while held > 1 do
  local first = tonumber(redis.call('XRANGE', journalKey, '-', '+', 'COUNT', 1)[1][2][4]) or 0
  if first <= total and total - first <= bytesMax then break end
  redis.call('XTRIM', journalKey, 'MAXLEN', math.floor(held / 2))
  held = redis.call('XLEN', journalKey)
end
return position
