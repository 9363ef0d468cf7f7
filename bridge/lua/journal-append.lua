#!lua flags=allow-oom
-- Appends one entry of changes to the journal and to the snapshot of the node that makes them. Also when Redis is full: without
-- takeovers and what is cleared nobody could come and take what fills it.
-- KEYS   generation nodes batches position journal routes(node)
-- ARGV   nodeId, batch number, generation, journal length, entry, "1" to begin the snapshot anew, then filter, kind, filter, kind …
-- REPLY  the journal's position, which covers the entry (also when the batch was appended before)
-- FAILS  AMNESIA · FENCED · ORDER
-- COST   O(changes)
local generationKey, nodesKey, batchesKey, positionKey, journalKey, routesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local nodeId, batch, generation, length, entry, anew = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if redis.call('GET', generationKey) ~= generation then return redis.error_reply('AMNESIA another data set') end
if redis.call('HEXISTS', nodesKey, nodeId) == 0 then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
local last = tonumber(redis.call('HGET', batchesKey, nodeId) or '0')
if batch <= last then return tonumber(redis.call('GET', positionKey) or '0') end
if batch > last + 1 then return redis.error_reply('ORDER batch ' .. batch .. ' after ' .. last) end
if anew == '1' then redis.call('UNLINK', routesKey) end
for i = 7, #ARGV, 2 do
  if ARGV[i + 1] == '0' then redis.call('HDEL', routesKey, ARGV[i]) else redis.call('HSET', routesKey, ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', batchesKey, nodeId, batch)
local position = redis.call('INCR', positionKey)
redis.call('XADD', journalKey, 'MAXLEN', '~', length, position .. '-0', 'e', entry)
return position
