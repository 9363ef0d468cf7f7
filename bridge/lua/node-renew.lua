#!lua flags=allow-oom
-- Renews a node's lease by Redis' clock and tells which other leases are over. A lease whose renewals had a gap begins
-- anew: only who was there for a whole lease may judge others (ATTACKS 6).
-- KEYS   generation nodes leases dead records
-- ARGV   nodeId, leaseMs, generation, the last version of records that the node reads
-- REPLY  { node ids whose lease is over … }, empty while the caller may not judge; { node ids whose estate is not done }; this clock (ms);
--        the version in which records are written: raised when all nodes read a later one
-- FAILS  AMNESIA: this is another data set · FENCED: the node was declared dead
-- COST   O(nodes)
local generationKey, nodesKey, leasesKey, deadKey, recordsKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nodeId, leaseMs, generation = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if redis.call('GET', generationKey) ~= generation then return redis.error_reply('AMNESIA another data set') end
if redis.call('HEXISTS', nodesKey, nodeId) == 0 then return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead') end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local since, last = string.match(redis.call('HGET', leasesKey, nodeId) or '0:0', '^(%d+):(%d+)$')
since = tonumber(since)
if now - tonumber(last) > leaseMs * 1000 / 3 then since = now end
redis.call('HSET', leasesKey, nodeId, string.format('%.0f:%.0f', since, now))
local over = {}
if now - since >= leaseMs * 1000 then
  local leases = redis.call('HGETALL', leasesKey)
  for i = 1, #leases, 2 do
    local renewed = tonumber(string.match(leases[i + 1], ':(%d+)$')) or 0
    if now - renewed > leaseMs * 1000 then over[#over + 1] = leases[i] end
  end
end
local records, common = tonumber(redis.call('GET', recordsKey)) or 0, tonumber(ARGV[4])
if records < common then
  for _, info in ipairs(redis.call('HVALS', nodesKey)) do
    common = math.min(common, tonumber(string.match(info, '"records":%[%d+,(%d+)%]')) or 1)
  end
  if records < common then
    records = common
    redis.call('SET', recordsKey, records)
  end
end
return { over, redis.call('SMEMBERS', deadKey), string.format('%.3f', time[1] * 1000 + time[2] / 1000), records }
