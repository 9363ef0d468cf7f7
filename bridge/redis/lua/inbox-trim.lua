#!lua flags=allow-oom
-- Frees what the reader handled and notes its progress. What it has to hand on and has not stays, whatever of the
-- entries behind that is freed. Of what is there one entry was handled: `place`.
-- KEYS   stream state
-- WRITES stream state
-- ARGV   the id of the last entry that was handled ("": something of it is to be handed on), the id before which
--        everything goes, each lane and the bytes of it freed since the inbox was made ("0 12 1 3 …"; 0: what was
--        published), ids of others that go …
-- REPLY  1
-- FAILS  FENCED: the inbox was sealed meanwhile, its owner is out · AMNESIA: there is no inbox
-- COST   O(entries freed)
local streamKey, stateKey = KEYS[1], KEYS[2]
local place, before, freed = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', streamKey) == 0 then return redis.error_reply('AMNESIA the inbox is gone') end
if redis.call('HGET', stateKey, 'sealed') then return redis.error_reply('FENCED the inbox was sealed') end
-- The handled entry itself stays: it proves to the reader that this is the stream it read.
redis.call('XTRIM', streamKey, 'MINID', before)
for i = 4, #ARGV, 1000 do redis.call('XDEL', streamKey, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
for lane, bytes in string.gmatch(freed, '(%d+) (%d+)') do
  redis.call('HSET', stateKey, lane == '0' and 'out' or 'out' .. lane, bytes)
end
if place ~= '' and redis.call('XLEN', streamKey) == 1 then -- nothing waits, whatever was counted
  for _, field in ipairs(redis.call('HKEYS', stateKey)) do
    local lane = string.match(field, '^in(%d*)$')
    if lane then redis.call('HSET', stateKey, field, redis.call('HGET', stateKey, 'out' .. lane) or '0') end
  end
end
local time = redis.call('TIME')
redis.call('HSET', stateKey, 'place', place, 'progress', string.format('%.0f', time[1] * 1000000 + time[2]))
return 1
