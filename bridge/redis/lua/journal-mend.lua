#!lua flags=allow-oom
-- The end of the journal. Where position and journal disagree, which no script leaves behind, both go on at a
-- number above either: every node finds an entry that does not follow its cursor and rebuilds its tables from
-- the snapshot.
-- KEYS   position journal
-- WRITES position journal
-- ARGV   an entry that changes nothing
-- REPLY  { position, the entry that stands there or "", what was wrong or "" }
-- COST   O(1)
local positionKey, journalKey = KEYS[1], KEYS[2]

local text = redis.call('GET', positionKey) or '0'
local position = tonumber(text) or 0
local top = redis.call('XREVRANGE', journalKey, '+', '-', 'COUNT', 1)[1]
local number, rest = string.match(top and top[1] or '0-0', '^(%d+)-(%d+)$')
local last = tonumber(number)
if text == string.format('%.0f', last) and rest == '0' then return { position, top and top[2][2] or '', '' } end
if last > 9e15 then
  redis.call('UNLINK', journalKey) -- nothing can be appended after it
  last = 0
end
if position > 9e15 or position < 0 then position = 0 end
local nextOne = math.floor(math.max(position, last)) + 1
redis.call('XADD', journalKey, string.format('%.0f-0', nextOne), 'e', ARGV[1], 't', '0')
redis.call('SET', positionKey, string.format('%.0f', nextOne))
return { nextOne, ARGV[1], 'it said ' .. string.sub(text, 1, 30) .. ', the journal ended at ' .. number .. '-' .. rest }
