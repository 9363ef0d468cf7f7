#!lua flags=allow-oom
-- Wills that were taken stay the taker's for a while longer: the gate decides about them, or there is no room for them.
-- KEYS   due
-- WRITES due
-- ARGV   how long they are the caller's from now on (ms), member (w:sid:epoch) …
-- REPLY  1
-- COST   O(members * log due)
local dueKey, holdMs = KEYS[1], tonumber(ARGV[1])

redis.call('ZCARD', dueKey) -- of a wrong type it fails before anything is written
local time = redis.call('TIME')
local untilMs = time[1] * 1000 + time[2] / 1000 + holdMs
-- What is done with by now is not there, and does not come back.
for i = 2, #ARGV do redis.call('ZADD', dueKey, 'XX', 'GT', untilMs, ARGV[i]) end
return 1
