-- Appends `entry` to the journal under a number that nobody has had, whatever became of the position: what
-- fails fails before anything is written. Each entry carries the bytes of all before it, so that the journal
-- is bounded in bytes. Takes journalKey, positionKey, entry, length; leaves `position`, of the entry, and
-- `total`, bytes.
local position = tonumber(redis.call('GET', positionKey) or '0') or 0
local top = redis.call('XREVRANGE', journalKey, '+', '-', 'COUNT', 1)[1]
local total = #entry
if top then
  local id = tonumber(string.match(top[1], '^%d+'))
  if id > position or position > 9e15 then position = id end
  total = total + (tonumber(top[2][4]) or 0)
end
if position > 9e15 then position = 0 end
position = position + 1
redis.call('XADD', journalKey, 'MAXLEN', '~', length, string.format('%.0f-0', position), 'e', entry, 't', string.format('%.0f', total))
redis.call('SET', positionKey, string.format('%.0f', position))
