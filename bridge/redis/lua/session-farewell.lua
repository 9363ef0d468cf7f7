#!lua flags=allow-oom
-- The client said good-bye: its will is void, as soon as that is read and whoever has the session by now,
-- unless somebody has taken the will to publish it; and the session may be to live shorter or longer than
-- CONNECT said. Who waits for the session is told that what came before the end takes a moment yet.
-- KEYS   owners due wills session
-- WRITES due wills session
-- ARGV   sid, owner (node id, space, epoch), "1" when the will is void, expiry (s, -1: never, "": as it was),
--        "1" when somebody waits
-- REPLY  1
-- COST   O(log due)
local ownersKey, dueKey, willsKey, sessionKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sid, owner, expiry = ARGV[1], ARGV[2], ARGV[4]

-- of a wrong type it fails before anything is written
for _, eachKey in ipairs({ ownersKey, willsKey, sessionKey }) do redis.call('HLEN', eachKey) end
redis.call('ZCARD', dueKey)

if ARGV[3] == '1' then
  local will = sid .. ':' .. string.match(owner, '%d+$')
  if redis.call('HDEL', willsKey, will) == 1 then redis.call('ZREM', dueKey, 'w:' .. will) end
end
if redis.call('HGET', ownersKey, sid) == owner then
  if expiry ~= '' then redis.call('HSET', sessionKey, 'expiry', expiry) end
  if ARGV[5] == '1' then redis.call('HSET', sessionKey, 'leaves', owner) end
end
return 1
