#!lua flags=allow-oom
-- Registers a living boot of a node again after Redis lost its data. Called twice it changes nothing.
-- KEYS   generation names nodes leases batches format records
-- WRITES generation names nodes leases batches format records
-- ARGV   nodeId, name, info (JSON), newGeneration, the generation that the node knew, format, the version in
--        which it writes records
-- REPLY  generation
-- FAILS  FENCED: the data set is the one that the node knew, and the node has no place in it · FORMAT: a node
--        of another format was there first
-- COST   O(1)
local generationKey, namesKey, nodesKey, leasesKey, batchesKey, formatKey, recordsKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local nodeId, name, info, newGeneration, known, format = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local written = redis.call('GET', formatKey) or format
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- of a wrong type it fails before anything is written
for _, eachKey in ipairs({ namesKey, nodesKey, leasesKey, batchesKey }) do redis.call('HLEN', eachKey) end
redis.call('GET', generationKey)
redis.call('GET', recordsKey)
-- Where the node has a place the data are its own, whatever became of the key that says so.
local placed = redis.call('HEXISTS', nodesKey, nodeId) == 1 or redis.call('HEXISTS', batchesKey, nodeId) == 1
if written ~= format and not placed then
  return redis.error_reply('FORMAT the data are in format ' .. written .. ', this version knows format ' .. format)
end
redis.call('SET', formatKey, format)
redis.call('SET', recordsKey, ARGV[7], 'NX') -- a cluster that is alive writes what all its nodes read
redis.call('SET', generationKey, newGeneration, 'NX')
local generation = redis.call('GET', generationKey)
if placed then return generation end
if generation == known then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
redis.call('HSET', namesKey, name, nodeId)
redis.call('HSET', nodesKey, nodeId, info)
redis.call('HSET', leasesKey, nodeId, string.format('%.0f:%.0f', now, now))
redis.call('HSET', batchesKey, nodeId, 0)
return generation
