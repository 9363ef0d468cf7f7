#!lua flags=allow-oom
-- Frees what the reader handled and notes its progress.
-- KEYS   stream state
-- WRITES stream state
-- ARGV   the id of the last entry that was handled, bytes handled since the inbox was made
-- REPLY  1
-- FAILS  FENCED: the inbox was sealed meanwhile, its owner is out · AMNESIA: there is no inbox
-- COST   O(entries freed)
local streamKey, stateKey = KEYS[1], KEYS[2]
if redis.call('EXISTS', streamKey) == 0 then return redis.error_reply('AMNESIA the inbox is gone') end
if redis.call('HGET', stateKey, 'sealed') then return redis.error_reply('FENCED the inbox was sealed') end
-- The handled entry itself stays: it proves to the reader that this is the stream it read.
redis.call('XTRIM', streamKey, 'MINID', ARGV[1])
redis.call('HSET', stateKey, 'out', ARGV[2])
-- nothing waits, whatever was counted
if redis.call('XLEN', streamKey) == 1 then redis.call('HSET', stateKey, 'in', ARGV[2]) end
local time = redis.call('TIME')
redis.call('HSET', stateKey, 'progress', string.format('%.0f', time[1] * 1000000 + time[2]))
return 1
