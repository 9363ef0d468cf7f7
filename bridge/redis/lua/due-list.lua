#!lua flags=no-writes,allow-oom
-- What is due in a partition, by its own clock.
-- KEYS   due
-- WRITES none
-- ARGV   how many at most, kinds to leave out: the letters that they begin with, "" for none
-- REPLY  { member … }, the longest due first; after ten thousand that are left out none is looked for
-- COST   O(log due + members looked at)
local dueKey, max, without = KEYS[1], tonumber(ARGV[1]), ARGV[2] or ''

local time = redis.call('TIME')
local now = string.format('%.3f', time[1] * 1000 + time[2] / 1000)
if without == '' then return redis.call('ZRANGE', dueKey, '-inf', now, 'BYSCORE', 'LIMIT', 0, max) end
local found = {}
for first = 0, 9000, 1000 do
  local members = redis.call('ZRANGE', dueKey, '-inf', now, 'BYSCORE', 'LIMIT', first, 1000)
  for _, member in ipairs(members) do
    if not string.find(without, string.sub(member, 1, 1), 1, true) then found[#found + 1] = member end
    if #found == max then return found end
  end
  if #members < 1000 then break end
end
return found
