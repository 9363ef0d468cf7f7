#!lua flags=allow-oom
-- Renews a node's lease by Redis' clock and tells which other leases are over. A lease whose renewals had a
-- gap begins anew: only who was there for a whole lease may judge others (R5). What Redis lost of the node's
-- own entries is written down again: who was declared dead lost all of it at once.
-- KEYS   generation names nodes leases batches dead format records
-- WRITES names nodes leases batches dead format records
-- ARGV   nodeId, leaseMs, generation, name, info (JSON), format, the last version of records that the node reads
-- REPLY  { node ids whose lease is over … }, empty while the caller may not judge; { node ids whose estate is
--        not done }; this clock (ms); the version in which records are written: raised when all nodes read a
--        later one; { nouns of keys in which something was written down again … }
-- FAILS  AMNESIA: this is another data set · FENCED: the node was declared dead
-- COST   O(nodes)
local generationKey, namesKey, nodesKey, leasesKey, batchesKey, deadKey, formatKey, recordsKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local nodeId, leaseMs, generation, name, info, format = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if redis.call('GET', generationKey) ~= generation then return redis.error_reply('AMNESIA another data set') end
local placed, numbered = redis.call('HGET', nodesKey, nodeId), redis.call('HEXISTS', batchesKey, nodeId) == 1
if not placed and not numbered then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local leases, dead = redis.call('HGETALL', leasesKey), redis.call('SMEMBERS', deadKey)
local lost = {}
local named = redis.call('HGET', namesKey, name)
if redis.call('GET', formatKey) ~= format then
  redis.call('SET', formatKey, format)
  lost[#lost + 1] = 'format'
end
if placed ~= info then
  redis.call('HSET', nodesKey, nodeId, info)
  lost[#lost + 1] = 'nodes'
end
if not numbered then
  redis.call('HSET', batchesKey, nodeId, 0)
  lost[#lost + 1] = 'batches'
end
-- Another boot that is there may be taking the name over.
if named ~= nodeId and (not named or string.sub(named, 1, #name + 1) ~= name .. '@' or redis.call('HEXISTS', nodesKey, named) == 0) then
  redis.call('HSET', namesKey, name, nodeId)
  lost[#lost + 1] = 'names'
end

-- A lease that is not one, that is renewed in the future, or that a node lacks, is over a lease from now.
local renewals = {}
for i = 1, #leases, 2 do
  local since, renewed = string.match(leases[i + 1], '^(%d+):(%d+)$')
  since, renewed = tonumber(since), tonumber(renewed)
  if renewed and since <= renewed and renewed <= now + leaseMs * 1000 then renewals[leases[i]] = { since, renewed } end
end
local own = renewals[nodeId]
if not own then lost[#lost + 1] = 'leases' end
local since = own and own[1] or now
if not own or now - own[2] > leaseMs * 1000 / 3 or since > now then since = now end
redis.call('HSET', leasesKey, nodeId, string.format('%.0f:%.0f', since, now))
local over = {}
for _, other in ipairs(redis.call('HKEYS', nodesKey)) do
  local lease = renewals[other]
  if other == nodeId then -- renewed above
  elseif not lease then
    redis.call('HSET', leasesKey, other, string.format('%.0f:%.0f', now, now))
    lost[#lost + 1] = 'leases'
  elseif now - since >= leaseMs * 1000 and now - lease[2] > leaseMs * 1000 then over[#over + 1] = other end
end
local estates = {}
for _, other in ipairs(dead) do
  if redis.call('HEXISTS', nodesKey, other) == 1 then
    redis.call('SREM', deadKey, other)
  else
    estates[#estates + 1] = other
  end
end
local records, common = tonumber(redis.call('GET', recordsKey) or '0') or 0, tonumber(ARGV[7])
if records > common then -- no node that is there could have joined
  records = 0
  lost[#lost + 1] = 'records'
end
if records < common then
  for _, each in ipairs(redis.call('HVALS', nodesKey)) do
    common = math.min(common, tonumber(string.match(each, '"records":%[%d+,(%d+)%]')) or 1)
  end
  if records < common then
    records = common
    redis.call('SET', recordsKey, records)
  end
end
return { over, estates, string.format('%.3f', time[1] * 1000 + time[2] / 1000), records, lost }
