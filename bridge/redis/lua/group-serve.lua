#!lua
-- What a node does with the groups of a partition: members come and go, acknowledge, messages come; then what
-- waits is given to members that have room. Calls of a node are numbered, and its writer signs each number:
-- sent again one appends nothing twice. Who acknowledges names the message by its Packet Identifier and by
-- its number among those of the member, so that a call that is sent again acknowledges nothing that was given
-- under the identifier since. What members had and did not acknowledge goes back in its order when their
-- connection is over, but for QoS 2, which stays with their session [MQTT-4.8.2-4] [MQTT-4.8.2-5]. When Redis
-- is full only without messages: what frees it goes on (scripts.ts). A message one of whose groups is not
-- there is appended to none, and its number is not noted: it is held, and comes again. So are those behind it
-- of the same publisher, whose numbers are larger, and those on the same topic, which would pass it by. A message to very many groups comes in parts, alone in its call, in
-- the order of their places (bridge/publish/parts.ts): what is noted of it is as in queue-append.lua. What is damaged is mended where it is read: an entry of
-- `groups` from what the node knows, counts by counting, numbers by the clock.
-- KEYS   groups calls appended published
-- MADE   group members backlog given
-- WRITES groups calls published group members backlog given
-- ARGV   nodeId, call (number-writer), what a group's keys begin with, messages a backlog holds, bytes that
--        it holds, a random number, members that a group may have, and as MessagePack { { body, publisher's
--        sid ("" unless QoS 2), n, QoS, topic's hash … }, { operation … }, { group, strategy, 1 when it is
--        ordered, its gid as this node knows it, and whether all were told: "gid 1", or "" … } }, each
--        operation one of { "join", group, new gid, sid, owner, its first identifier, how many, granted QoS,
--        1 when it outlives its connection, 1 when the group is journaled, how many messages it takes at
--        once, the number of the next message as it knows it, -1: it has not joined, a later owner that is known to be none, or "" }
--        { "leave", group, sid, owner ("": whoever it is), 1 when it is a member no more, 0 when its
--        connection is over, { id, number … that its client has } } { "write", group, sid, owner, how many messages it takes at once, { id, number …
--        acknowledged }, { id, number … received }, { id, number … that go back } } { "append", group, {
--        index of a message from 1, what its strategy hashes … }, the group's place } { "touch", group }; up to which
--        place groups have the numbered message once this is stored ("": all have it); keys are made of the
--        gids, with the tag of `groups`
-- REPLY  { 1 when the call came before, messages dropped from full backlogs, 1 when there may be more to
--        give, { of each operation: join: { gid, 1 when it is journaled, the number of the next message, its
--        first identifier, id, entry … }, leave: gid of the group that is forgotten or "", write: 1, append:
--        how many members the group has; otherwise "NOTOWNER" (join: and who is), "FULL" or "MISSING" … }, {
--        group, gid, sid, owner, id, number, granted QoS, index of a message or what waited … }, { group,
--        messages that wait, bytes … }, messages given back, messages of QoS 2 that ended with their session,
--        { indexes of messages that are held … } }
-- FAILS  FENCED: the node was declared dead · ORDER call after last
-- COST   O(operations + messages + members of their groups), and of an ordered or hashed group what waits for its
--        topic or member, 100 messages at most
local groupsKey, callsKey, appendedKey, publishedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nodeId, call, begin, max, bytesMax, membersMax =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local messages, operations, known = unpack(cmsgpack.unpack(ARGV[8]))
local givenMax, givenBytesMax, aheadMax = 500, 1048576, 100
local upTo = tonumber(ARGV[9] or '')
math.randomseed(tonumber(ARGV[6]))

if redis.call('HEXISTS', appendedKey, nodeId) == 0 then
  return redis.error_reply('FENCED ' .. nodeId .. ' was declared dead')
end
local stored = redis.call('HGET', callsKey, nodeId) or '0'
local number, last = tonumber(string.match(call, '^%d+')), tonumber(string.match(stored, '^%d+')) or 0
if last > 9e15 then last = 0 end -- damaged: beyond what is counted exactly
local again = string.match(stored, '^%S+') == call
if not again and number ~= last + 1 then
  return redis.error_reply('ORDER call ' .. call .. ' after ' .. string.format('%.0f', last))
end

local text = function(n) return string.format('%.0f', n) end
local whole = function(field) return tonumber(string.match(field or '', '^%d+$')) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local knownOf = {}
for i = 1, #known, 4 do knownOf[known[i]] = { strategy = known[i + 1], ordered = known[i + 2] == 1, entry = known[i + 3] } end
local groups = {} -- name → what is known of it, in `order` of the operations
local order = {}

-- What the backlog takes, roughly, when the count is none that it may have.
local function bytesOf(group, count, length)
  if length == 0 then return 0 end
  if count and count >= length and (count <= bytesMax or length == 1) then return count end
  return redis.call('MEMORY', 'USAGE', group.backlogKey, 'SAMPLES', 0) or 0
end

-- Of a group that is there; otherwise nil, unless `newGid` names one. A group that was forgotten has none of
-- its keys: one that has is there, whatever became of its entry.
local function groupOf(name, newGid)
  local group = groups[name]
  if group then return group end
  local entry = redis.call('HGET', groupsKey, name) or ''
  local what = knownOf[name]
  local gid, journaled = string.match(entry, '^([%w_-]+) ([01])$')
  if not gid then
    gid, journaled = string.match(what.entry, '^([%w_-]+) ([01])$')
    local keys = {}
    for i, noun in ipairs({ 'group:', 'members:', 'backlog:', 'given:' }) do keys[i] = begin .. noun .. (gid or '') end
    if gid and redis.call('EXISTS', unpack(keys)) == 0 then gid = nil end
  end
  if not gid and not newGid then return nil end
  group = { name = name, gid = gid or newGid, journaled = gid ~= nil and journaled == '1', isNew = not gid, entry = entry,
    strategy = what.strategy, ordered = what.ordered, members = {}, changed = {}, fresh = {} }
  group.groupKey, group.membersKey = begin .. 'group:' .. group.gid, begin .. 'members:' .. group.gid
  group.backlogKey, group.givenKey = begin .. 'backlog:' .. group.gid, begin .. 'given:' .. group.gid
  local fields = redis.call('HMGET', group.groupKey, 'order', 'turn', 'sticky', 'bytes')
  group.order, group.turn, group.sticky = whole(fields[1]) or 0, fields[2] or '', fields[3] or ''
  local given, length = redis.call('HLEN', group.givenKey), redis.call('LLEN', group.backlogKey)
  group.bytes = bytesOf(group, whole(fields[4]), length)
  local members = redis.call('HGETALL', group.membersKey)
  for i = 1, #members, 2 do
    local qos, lasting, state, base, window, limit, n, cursor, seq, owner =
      string.match(members[i + 1], '^(%d) ([01]) ([012]) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
    if qos then
      group.members[members[i]] = { sid = members[i], qos = tonumber(qos), lasting = lasting == '1', state = state, base = tonumber(base),
        window = tonumber(window), limit = tonumber(limit), n = given > 0 and tonumber(n) or 0, cursor = tonumber(cursor), seq = tonumber(seq),
        owner = owner }
    end
  end
  groups[name] = group
  order[#order + 1] = group
  return group
end

-- Every key is read before one is written: of a wrong type it fails here, and a second attempt does nothing twice.
redis.call('HLEN', publishedKey)
for _, operation in ipairs(operations) do groupOf(operation[2], operation[1] == 'join' and operation[3] or nil) end

local givenBack, ended = 0, 0
local orderOf = function(item) return tonumber(string.match(item, '^%d+')) or 0 end
local topicOf = function(item) return string.match(item, '^%d+ %d %d+ (%d+) ') end

local function put(group, items, isBack)
  for i = 1, #items do group.bytes = group.bytes + #items[i] end
  if isBack then
    local reversed = {}
    for i = #items, 1, -1 do reversed[#reversed + 1] = items[i] end
    items = reversed
  end
  for i = 1, #items, 1000 do
    redis.call(isBack and 'LPUSH' or 'RPUSH', group.backlogKey, unpack(items, i, math.min(i + 999, #items)))
  end
end

local function pop(group)
  local item = redis.call('LPOP', group.backlogKey)
  if item then group.bytes = math.max(0, group.bytes - #item) end
  return item
end

local function fieldsOf(member)
  local fields = {}
  for i = 0, member.window - 1 do fields[i + 1] = member.sid .. ' ' .. (member.base + i) end
  return fields
end

-- Of an ordered group: a topic is locked by the field under which a message of it is in flight, and by its
-- number there.
local lockOf = function(item) return 'topic ' .. (topicOf(item) or '') end

local function isLocked(group, lock)
  local field, seq = string.match(redis.call('HGET', group.givenKey, lock) or '', '^(.*) (%d+)$')
  return field and string.match(redis.call('HGET', group.givenKey, field) or '', '^%d+') == seq
end

local function unlock(group, item)
  if group.ordered then redis.call('HDEL', group.givenKey, lockOf(item)) end
end

-- Of a member that unsubscribed all but what its client has goes back, QoS 2, too: what is on its way to it from another
-- node, or was told to nobody, is given to nobody else otherwise for as long as its connection lasts, nor after it.
local function takeUnsent(group, member, kept)
  local numbers, fields, items, gone = {}, fieldsOf(member), {}, {}
  for i = 1, #kept, 2 do numbers[kept[i]] = kept[i + 1] end
  member.n = 0
  for i, entry in ipairs(redis.call('HMGET', group.givenKey, unpack(fields))) do
    local seq, state, item = string.match(entry or '', '^(%d+) ([sr]) %d (.*)$')
    if seq and (state == 'r' or tonumber(seq) == numbers[member.base + i - 1]) then member.n = member.n + 1
    elseif seq then
      gone[#gone + 1] = fields[i]
      unlock(group, item)
      items[#items + 1] = item
    end
  end
  if #gone > 0 then redis.call('HDEL', group.givenKey, unpack(gone)) end
  return items
end

-- What a member has in flight goes back; QoS 2 stays when its session may still complete it, and ends with it
-- otherwise.
local function takeBack(group, member, stays)
  local fields, items, gone = fieldsOf(member), {}, {}
  for i, entry in ipairs(redis.call('HMGET', group.givenKey, unpack(fields))) do
    local qos, item = string.match(entry or '', '^%d+ [sr] (%d) (.*)$')
    if qos and (qos ~= '2' or not stays) then
      gone[#gone + 1] = fields[i]
      unlock(group, item)
      if qos == '2' then ended = ended + 1 else items[#items + 1] = item end
    end
  end
  if #gone > 0 then redis.call('HDEL', group.givenKey, unpack(gone)) end
  member.n = member.n - #gone
  return items
end

local function putBack(group, items)
  if #items == 0 then return end
  givenBack = givenBack + #items
  -- What went back before it may be older or younger: each into its place.
  table.sort(items, function(a, b) return orderOf(a) < orderOf(b) end)
  local head, most = {}, orderOf(items[#items])
  for item in function() return redis.call('LINDEX', group.backlogKey, 0) or nil end do
    if orderOf(item) > most then break end
    head[#head + 1] = pop(group)
  end
  for _, item in ipairs(head) do items[#items + 1] = item end
  table.sort(items, function(a, b) return orderOf(a) < orderOf(b) end)
  put(group, items, true)
end

local function forget(group)
  redis.call('HDEL', groupsKey, group.name)
  redis.call('UNLINK', group.groupKey, group.membersKey, group.backlogKey, group.givenKey)
  groups[group.name] = nil
  group.isForgotten = true
end

local results = {}
local epochOf = function(owner) return tonumber(string.match(owner, '%d+$')) or 0 end

-- What a member has, as { id, entry … }: counted anew. An entry that says nothing frees its identifier.
local function entriesOf(group, member)
  local fields, list = fieldsOf(member), {}
  member.n = 0
  for i, entry in ipairs(redis.call('HMGET', group.givenKey, unpack(fields))) do
    local seq = string.match(entry or '', '^(%d+) [sr] [012] ')
    if seq then
      member.n, member.seq = member.n + 1, math.max(member.seq, tonumber(seq) + 1)
      list[#list + 1] = member.base + i - 1
      list[#list + 1] = entry
    elseif entry then redis.call('HDEL', group.givenKey, fields[i]) end
  end
  return list
end

local function join(operation)
  local _, name, newGid, sid, owner, base, window, qos, lasting, journaled, limit, nextSeq, none = unpack(operation)
  local group = groupOf(name, newGid)
  local member = group.members[sid]
  if member and member.owner ~= owner and member.owner ~= none and epochOf(member.owner) > epochOf(owner) then
    return 'NOTOWNER ' .. member.owner
  end
  if not member then
    local count = 0
    for _ in pairs(group.members) do count = count + 1 end
    if count >= membersMax then return 'FULL' end
    -- Redis lost one that had joined: its numbers go on after those that may be on their way.
    member = { sid = sid, base = base, window = window, n = 0, cursor = 0, seq = nextSeq < 0 and 0 or math.floor(now / 10) }
    group.members[sid] = member
  elseif member.owner ~= owner then putBack(group, takeBack(group, member, true))
  elseif member.base ~= base or member.window ~= window then putBack(group, takeBack(group, member, false)) end
  group.isNew, group.journaled = false, group.journaled or journaled == 1
  member.qos, member.lasting, member.state, member.owner, member.limit = qos, lasting == 1, '1', owner, limit
  member.base, member.window, member.seq = base, window, math.max(member.seq, nextSeq)
  group.changed[sid] = member
  local entries = entriesOf(group, member)
  return { group.gid, group.journaled and 1 or 0, member.seq, member.base, unpack(entries) }
end

-- A member that unsubscribed goes on acknowledging what it has, for as long as its connection lasts [MQTT-3.10.4-3].
local function leave(operation)
  local _, name, sid, owner, isLeft, kept = unpack(operation)
  local group = groupOf(name)
  local member = group and group.members[sid]
  if not group then return '' end
  if not member or (owner ~= '' and member.owner ~= owner) then -- somebody else's by now, or Redis lost it
    if sid ~= '' then return '' end
  elseif isLeft == 1 and owner ~= '' then
    putBack(group, takeUnsent(group, member, kept))
    member.state, member.lasting, member.limit = '2', false, 0
    group.changed[sid] = member
    if member.n == 0 then
      group.members[sid], group.changed[sid] = nil, nil
      redis.call('HDEL', group.membersKey, sid)
    end
  else
    local stays = isLeft == 0 and member.lasting and member.state ~= '2'
    putBack(group, takeBack(group, member, stays))
    if stays then
      member.state, member.owner = '0', string.match(member.owner, '%d+$') or '0'
      group.changed[sid] = member
    else
      group.members[sid], group.changed[sid] = nil, nil
      redis.call('HDEL', group.membersKey, sid)
    end
  end
  for _, other in pairs(group.members) do if other.state ~= '2' then return '' end end
  forget(group)
  return group.gid
end

local function write(operation)
  local _, name, sid, owner, limit, acknowledged, received, returned = unpack(operation)
  local group = groupOf(name)
  local member = group and group.members[sid]
  if not member or member.owner ~= owner then return 'NOTOWNER' end
  local isCounted = true
  for i = 1, #acknowledged, 2 do
    local field = sid .. ' ' .. acknowledged[i]
    local entry = redis.call('HGET', group.givenKey, field)
    local seq, item = string.match(entry or '', '^(%d+) [sr] %d (.*)$')
    if tonumber(seq) == acknowledged[i + 1] then
      redis.call('HDEL', group.givenKey, field)
      unlock(group, item)
      member.n = member.n - 1
    elseif not seq then isCounted = false end -- it was acknowledged before, or Redis lost it
  end
  for i = 1, #received, 2 do
    local field = sid .. ' ' .. received[i]
    local seq, qos, head = string.match(redis.call('HGET', group.givenKey, field) or '', '^(%d+) s (%d) (%d+ %d %d+ %d+ )')
    if tonumber(seq) == received[i + 1] then
      redis.call('HSET', group.givenKey, field, seq .. ' r ' .. qos .. ' ' .. head)
    end
  end
  local items = {}
  for i = 1, #returned, 2 do
    local field = sid .. ' ' .. returned[i]
    local seq, item = string.match(redis.call('HGET', group.givenKey, field) or '', '^(%d+) s %d (.*)$')
    if tonumber(seq) == returned[i + 1] then
      redis.call('HDEL', group.givenKey, field)
      unlock(group, item)
      member.n = member.n - 1
      items[#items + 1] = item
    end
  end
  putBack(group, items)
  if not isCounted then entriesOf(group, member) end
  if member.state == '1' then member.limit = limit end
  group.changed[sid] = member
  if member.state == '2' and member.n <= 0 then
    group.members[sid], group.changed[sid] = nil, nil
    redis.call('HDEL', group.membersKey, sid)
  end
  return 1
end

local held, duplicate, applied, places = {}, {}, {}, {}

-- Once it is known which groups are there: what members do comes first in a call.
local function numberAll()
  for index in string.gmatch(again and string.match(stored, ' (.*)$') or '', '%d+') do held[tonumber(index)] = true end
  for _, operation in ipairs(operations) do
    if operation[1] == 'append' and not again then
      local group = groupOf(operation[2])
      for i = 1, (not group or group.isNew) and #operation[3] or 0, 2 do held[operation[3][i]] = true end
    end
  end
  local behind, onTopic = {}, {}
  for i = 1, #messages / 5 do
    local publisher, n, topic = messages[5 * i - 3], messages[5 * i - 2], messages[5 * i]
    if not again then
      held[i] = held[i] or onTopic[topic] or behind[publisher]
      onTopic[topic] = held[i]
    end
    if publisher ~= '' and not again then
      behind[publisher] = held[i]
      -- Numbers of a publisher follow the clock: one that is far ahead of it is damaged (R7).
      local field = 'group:' .. publisher
      local highest, begun, place = applied[field], nil, nil
      if not highest then
        local noted = redis.call('HMGET', publishedKey, field, 'part:' .. field)
        highest = tonumber(noted[1] or '0') or 0
        begun, place = string.match(noted[2] or '', '^(%d+):(%d+)$')
        begun, place = tonumber(begun) or 0, tonumber(place)
        if begun <= highest or begun > now + 3e13 then begun = nil else highest = begun - 1 end
      end
      if highest > now + 3e13 and n <= now + 3e13 then highest = 0 end
      if n <= highest then duplicate[i] = true
      else
        if not held[i] then applied[field] = n end
        if n == begun then places[i] = place end
      end
    end
  end
end

local function append(operation)
  local _, name, list, groupPlace = unpack(operation)
  local group = groupOf(name)
  if not group or group.isNew then return 'MISSING' end
  for i = 1, #list, 2 do
    local index = list[i]
    if not again and not duplicate[index] and not held[index] and (groupPlace or 0) > (places[index] or -1) then
      -- Follows the clock, so that messages keep their order when Redis has lost the number.
      group.order = math.max(group.order > now + 3e13 and 0 or group.order + 1, now)
      group.fresh[#group.fresh + 1] = { index = index,
        item = text(group.order) .. ' ' .. messages[5 * index - 1] .. ' ' .. text(list[i + 1]) .. ' ' .. text(messages[5 * index]) .. ' ' .. messages[5 * index - 4] }
    end
  end
  local count = 0
  for _ in pairs(group.members) do count = count + 1 end
  return count
end

local isNumbered = false
for _, operation in ipairs(operations) do
  local kind = operation[1]
  if kind == 'append' and not isNumbered then
    numberAll()
    isNumbered = true
  end
  results[#results + 1] = kind == 'join' and join(operation) or kind == 'leave' and leave(operation) or kind == 'write' and write(operation)
    or kind == 'append' and append(operation) or 1
end

local given, counts, dropped, more, givenCount, givenBytes = {}, {}, 0, 0, 0, 0

local function room(member) return member.limit - member.n end

-- The two ways of finding a member with room. Room only shrinks while messages are given, so that giving all
-- of them costs O(members + messages).

-- In turn: who has room, from a place in the list on; nil when nobody has.
local function ringOf(list)
  local skip, count = {}, #list
  for i = 1, count do skip[i] = i end
  local function find(from)
    local i = from
    while i <= count do
      if skip[i] == i and room(list[i]) <= 0 then skip[i] = i + 1 end
      if skip[i] == i then break end
      i = skip[i]
    end
    while from < i do
      local following = skip[from]
      skip[from] = i
      from = following
    end
    return i
  end
  return function(from)
    local i = find(from)
    return list[i <= count and i or find(1)]
  end
end

-- Those first that are freest, of those that are alike in turn: `take` one, and `add` it again.
local function poolOf()
  local queues, most, pool = {}, 0, {}
  function pool.add(member)
    local free = room(member)
    if free <= 0 then return end
    local queue = queues[free] or { from = 1, to = 0 }
    queues[free], most, queue.to = queue, math.max(most, free), queue.to + 1
    queue[queue.to] = member
  end
  function pool.take()
    while most > 0 do
      local queue = queues[most]
      if queue and queue.from <= queue.to then
        local member = queue[queue.from]
        queue.from = queue.from + 1
        if room(member) == most then return member end
        pool.add(member)
      else most = most - 1 end
    end
    return nil
  end
  return pool
end

-- Those who may be given something, by their sids, and where the last message went.
local function rosterOf(group)
  local list, at, indexes = {}, 0, {}
  for _, member in pairs(group.members) do if member.state == '1' and member.window > 0 then list[#list + 1] = member end end
  table.sort(list, function(a, b) return a.sid < b.sid end)
  for i, member in ipairs(list) do
    indexes[member] = i
    if member.sid <= group.turn then at = i end
  end
  local near, far, isNear = poolOf(), poolOf(), {}
  for i = 1, #list do
    local member = list[(at + i - 1) % #list + 1]
    isNear[member] = group.strategy == 'local-first' and string.sub(member.owner, 1, #nodeId + 1) == nodeId .. ' '
    local pool = isNear[member] and near or far
    pool.add(member)
  end
  local roster = { list = list, from = ringOf(list) }
  function roster.following() return roster.from(at % #list + 1) end
  function roster.freest() return near.take() or far.take() end
  function roster.given(member)
    at = indexes[member]
    local pool = isNear[member] and near or far
    pool.add(member)
  end
  return roster
end

-- Who gets a message; nil: whose turn it is has no room, and where it stands in the list.
local function choose(group, roster, item)
  local strategy, list = group.strategy, roster.list
  if strategy == 'hash-client' or strategy == 'hash-topic' then
    local i = (tonumber(string.match(item, '^%d+ %d (%d+) ')) or 0) % #list + 1
    return room(list[i]) > 0 and list[i] or nil, i
  end
  if strategy == 'round-robin' then return roster.following() end
  if strategy == 'random' then return roster.from(math.random(#list)) end
  if strategy ~= 'sticky' then return roster.freest() end
  local member = group.members[group.sticky]
  local isThere = member and member.state == '1'
  if isThere and room(member) > 0 then return member end
  local other = roster.freest()
  if other and not isThere then group.sticky = other.sid end
  return other
end

local function give(group, member, item, index)
  local id
  for i = 0, member.window - 1 do
    local at = (member.cursor + i) % member.window
    if redis.call('HEXISTS', group.givenKey, member.sid .. ' ' .. (member.base + at)) == 0 then
      id, member.cursor = member.base + at, (at + 1) % member.window
      break
    end
  end
  if not id then -- the count was damaged
    member.n = member.window
    return false
  end
  local qos = math.min(tonumber(string.match(item, '^%d+ ([012]) ')) or 1, member.qos) -- damaged: its member finds out
  redis.call('HSET', group.givenKey, member.sid .. ' ' .. id, text(member.seq) .. ' s ' .. qos .. ' ' .. item)
  for _, part in ipairs({ group.name, group.gid, member.sid, member.owner, id, member.seq, qos, index or item }) do
    given[#given + 1] = part
  end
  member.seq, member.n, group.turn = member.seq + 1, member.n + 1, member.sid
  group.changed[member.sid] = member
  givenCount, givenBytes = givenCount + 1, givenBytes + #item
  return id
end

local function distribute(group)
  local waits = redis.call('LLEN', group.backlogKey) > 0
  if waits and #group.fresh > 0 then
    local items = {}
    for i, each in ipairs(group.fresh) do items[i] = each.item end
    put(group, items)
    group.fresh = {}
  end
  local isHashed = group.strategy == 'hash-client' or group.strategy == 'hash-topic'
  local roster = (waits or #group.fresh > 0) and rosterOf(group)
  local back, blocked, at = {}, {}, 0
  while roster and roster.from(1) and (#back < aheadMax or (isHashed and not group.ordered)) do
    if givenCount >= givenMax or givenBytes >= givenBytesMax then
      more = 1
      break
    end
    local item, index
    if waits then item = pop(group)
    else
      at = at + 1
      local each = group.fresh[at]
      if each then item, index = each.item, each.index end
    end
    if not item then break end
    local lock = group.ordered and lockOf(item)
    local member, wanted
    if not (lock and (blocked[lock] or isLocked(group, lock))) then
      member, wanted = choose(group, roster, item)
      if wanted and blocked[wanted] then member = nil end
      -- Too much waits for one member: it is passed by.
      if wanted and not member and #back >= aheadMax then member = roster.from(wanted) end
    end
    local id = member and give(group, member, item, index)
    if id then
      roster.given(member)
      if lock then redis.call('HSET', group.givenKey, lock, member.sid .. ' ' .. id .. ' ' .. text(member.seq - 1)) end
    else
      back[#back + 1] = item
      if lock then blocked[lock] = true end
      if wanted then blocked[wanted] = true end
      if not isHashed and not group.ordered then break end
    end
  end
  if waits then
    if #back > 0 then put(group, back, true) end
  else
    for i = at + 1, #group.fresh do back[#back + 1] = group.fresh[i].item end
    put(group, back)
  end
  local length = redis.call('LLEN', group.backlogKey)
  while length > 1 and (length > max or group.bytes > bytesMax) do
    pop(group)
    length, dropped = length - 1, dropped + 1
  end
  if length == 0 then group.bytes = 0 end
  for _, part in ipairs({ group.name, length, group.bytes }) do counts[#counts + 1] = part end
end

for _, group in ipairs(order) do
  if not group.isForgotten and not group.isNew then
    distribute(group)
    local records = {}
    for sid, m in pairs(group.changed) do
      records[#records + 1] = sid
      records[#records + 1] = m.qos .. ' ' .. (m.lasting and '1' or '0') .. ' ' .. m.state .. ' ' .. m.base .. ' ' .. m.window .. ' ' .. m.limit .. ' '
        .. math.max(0, m.n) .. ' ' .. m.cursor .. ' ' .. text(m.seq) .. ' ' .. m.owner
    end
    for i = 1, #records, 1000 do
      redis.call('HSET', group.membersKey, unpack(records, i, math.min(i + 999, #records)))
    end
    redis.call('HSET', group.groupKey, 'order', text(group.order), 'turn', group.turn, 'sticky', group.sticky, 'bytes', text(group.bytes))
    local entry = group.gid .. ' ' .. (group.journaled and '1' or '0')
    if entry ~= group.entry then redis.call('HSET', groupsKey, group.name, entry) end
  end
end
local indexes = {}
for i in pairs(held) do indexes[#indexes + 1] = i end
if not again then
  for field, n in pairs(applied) do
    if upTo then
      redis.call('HSET', publishedKey, field, text(n - 1), 'part:' .. field, text(n) .. ':' .. text(math.max(upTo, places[1] or 0)))
    else
      redis.call('HSET', publishedKey, field, text(n))
      redis.call('HDEL', publishedKey, 'part:' .. field)
    end
  end
  redis.call('HSET', callsKey, nodeId, #indexes == 0 and call or call .. ' ' .. table.concat(indexes, ' '))
end
return { again and 1 or 0, dropped, more, results, given, counts, givenBack, ended, indexes }
