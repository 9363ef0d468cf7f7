#!lua flags=allow-oom
-- Registers a boot of a node: a new node id, a fresh lease, and the generation of the data set when there is none.
-- KEYS   generation names nodes leases batches format records
-- WRITES generation names nodes leases batches format records
-- ARGV   name, info (JSON, different for each boot), leaseMs, replace ("1": the last boot of this name is
--        known to be dead), newGeneration, format, the first and the last version of records that the node
--        reads
-- REPLY  { nodeId, generation, the node id of the last boot or "", this clock (ms), the version in which
--        records are written }
-- FAILS  DUPLICATE: the last boot of this name has a live lease · FORMAT: the data are in another format than
--        the node's, or records are written that it cannot read
-- COST   O(1)
local generationKey, namesKey, nodesKey, leasesKey, batchesKey, formatKey, recordsKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local name, info, leaseMs, replace, newGeneration, format =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]

local written = redis.call('GET', formatKey) or format
if not string.match(written, '^%d%d?%d?/?%d*$') then written = format end -- damaged: no version of ours
if written ~= format then
  return redis.error_reply('FORMAT the data are in format ' .. written .. ', this version knows format ' .. format)
end
local first, last = tonumber(ARGV[7]), tonumber(ARGV[8])
local records = tonumber(redis.call('GET', recordsKey)) or last
if records < 0 or records > 255 or records ~= math.floor(records) then records = last end -- damaged
if records < first or records > last then
  return redis.error_reply('FORMAT records are written in version ' .. records .. ', this version reads ' .. first .. ' to ' .. last)
end
local time = redis.call('TIME')
local clock = string.format('%.3f', time[1] * 1000 + time[2] / 1000)
local now = time[1] * 1000000 + time[2]
local before = redis.call('HGET', namesKey, name) or ''
-- of a wrong type it fails before anything is written
for _, eachKey in ipairs({ nodesKey, leasesKey, batchesKey }) do redis.call('HLEN', eachKey) end
redis.call('GET', generationKey)
local epoch = now
if before ~= '' then
  -- An epoch is never used twice, also when Redis' clock was set back.
  local used = tonumber(string.match(before, '@(%d+)$')) or 0
  if epoch <= used and used < 9e15 then epoch = used + 1 end
  local lease = redis.call('HGET', leasesKey, before)
  local renewed = lease and tonumber(string.match(lease, ':(%d+)$')) or 0
  -- the reply to this very call was lost
  if redis.call('HGET', nodesKey, before) == info then
    return { before, redis.call('GET', generationKey), '', clock, records }
  end
  if replace ~= '1' and redis.call('HEXISTS', nodesKey, before) == 1 and now - renewed < leaseMs * 1000 then
    return redis.error_reply('DUPLICATE ' .. before .. ' is live')
  end
end
local nodeId = name .. '@' .. string.format('%.0f', epoch)
redis.call('SET', generationKey, newGeneration, 'NX')
redis.call('SET', formatKey, format)
redis.call('SET', recordsKey, records)
redis.call('HSET', namesKey, name, nodeId)
redis.call('HSET', nodesKey, nodeId, info)
redis.call('HSET', leasesKey, nodeId, string.format('%.0f:%.0f', now, now))
redis.call('HSET', batchesKey, nodeId, 0)
return { nodeId, redis.call('GET', generationKey), before, clock, records }
