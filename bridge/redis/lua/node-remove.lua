#!lua flags=allow-oom
-- Declares a node dead: deletes its places (that is the fence) and its routes, and tells all others.
-- KEYS   generation nodes leases batches dead position journal routes(dead)
-- WRITES nodes leases batches dead position journal routes
-- ARGV   dead node id, leaseMs ("0": it left by itself or its process is known to be dead), generation,
--        journal entry, entries the journal holds
-- REPLY  1 removed, 0 it was gone already or its lease is alive
-- FAILS  AMNESIA
-- COST   O(1), the routes are freed in the background
local generationKey, nodesKey, leasesKey, batchesKey, deadKey, positionKey, journalKey, routesKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local dead, leaseMs, generation, entry, length = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]

if redis.call('GET', generationKey) ~= generation then return redis.error_reply('AMNESIA another data set') end
if redis.call('HEXISTS', nodesKey, dead) == 0 and redis.call('HEXISTS', batchesKey, dead) == 0 then return 0 end
local lease = redis.call('HGET', leasesKey, dead)
if leaseMs > 0 then
  local time = redis.call('TIME')
  local renewed = tonumber(string.match(lease or '', ':(%d+)$')) or 0
  if time[1] * 1000000 + time[2] - renewed <= leaseMs * 1000 then return 0 end
end
redis.call('SCARD', deadKey) -- of a wrong type it fails before anything is written
-- @include journal-entry
redis.call('HDEL', nodesKey, dead)
redis.call('HDEL', leasesKey, dead)
redis.call('HDEL', batchesKey, dead)
redis.call('UNLINK', routesKey)
redis.call('SADD', deadKey, dead)
return 1
