-- IStore.append: the rules of mercury/stores/append_rules.py, and then the writing. One answer a draft:
--   {seq, id} a new entry; with `members` if it is a join or leave    {nothing = true} nobody came or went
--   {first = entry} the message that was sent with this cid before, whose text the node compares: it may be sealed
--   {error = code} refused; `who` for too_large
-- A draft with `seq` is sealed for this seq. If it would get another one, nothing of the batch is stored.

local SLACK = 100    -- entries above what is to be kept, before a log is trimmed
local FORGOTTEN = 1000  -- entries trimmed in one call at the most

local function decider(ctime, limit)
  local self = {rooms = {}, by_name = {}, went = {}, came = {}, counts = {}}
  self.last_id = tonumber(redis.call('GET', LAST_ID) or 0)
  self.stored_id = self.last_id

  local function room_of(rid)
    local room = self.by_name[rid]
    if not room then
      room = {rid = rid, born = false, there = is_room(rid), inside = {}, firsts = {}, entries = {}}
      local last_id
      room.head, room.messages, last_id = tail(rid)
      self.last_id = math.max(self.last_id, last_id)  -- never below one that is in a log
      self.by_name[rid] = room
      table.insert(self.rooms, room)
    end
    return room
  end

  local function is_inside(room, mid)
    if room.inside[mid] == nil then
      room.inside[mid] = room.there and redis.call('HEXISTS', places_of(mid), room.rid) == 1
    end
    return room.inside[mid]
  end

  local function places(mid)
    self.counts[mid] = self.counts[mid] or redis.call('HLEN', places_of(mid))
    return self.counts[mid]
  end

  local function add(room, entry)
    room.head, self.last_id = room.head + 1, self.last_id + 1
    entry.rid, entry.seq, entry.id, entry.ctime = room.rid, room.head, self.last_id, ctime
    if entry.kind == 'message' then room.messages = room.messages + 1 end
    table.insert(room.entries, {entry = entry, nth = room.messages})
    return entry
  end

  -- Those of `members` for whom is_inside is `inside`, each once.
  local function named(room, members, inside)
    local found, seen = {}, {}
    for _, mid in ipairs(members) do
      if not seen[mid] and is_inside(room, mid) == inside then table.insert(found, mid) end
      seen[mid] = true
    end
    return found
  end

  local function first_with(room, author_and_cid)
    local first = room.firsts[author_and_cid]
    if first == nil then
      local seq = redis.call('HGET', cids_of(room.rid), author_and_cid)
      local row = seq and row_at(room.rid, tonumber(seq))
      first = row and unpack_one(packed_entry_of(row)) or false
      room.firsts[author_and_cid] = first
    end
    return first
  end

  local rules = {}

  function rules.message(draft)
    local room = room_of(draft.rid)
    if not room.there then return {error = 'not_found'} end
    if draft.mid ~= '' and not is_inside(room, draft.mid) then return {error = 'forbidden'} end
    local key = draft.cid and draft.mid .. '\0' .. draft.cid
    local first = key and first_with(room, key)
    if first then return {first = first} end
    local entry = add(room, {kind = 'message', mid = draft.mid, text = draft.text, lost = draft.lost, cid = draft.cid})
    if draft.seq and draft.seq ~= entry.seq then self.misplaced = true end
    if key then room.firsts[key] = entry end
    return {seq = entry.seq, id = entry.id}
  end

  function rules.joined(draft)
    local room = room_of(draft.rid)
    local coming = named(room, draft.members, false)
    if limit > 0 then
      for _, mid in ipairs(coming) do
        if places(mid) >= limit then return {error = 'too_large', who = mid} end
      end
    end
    if not room.there then room.there, room.born = true, true end
    if #coming == 0 then return {nothing = true} end
    local entry = add(room, {kind = 'joined', members = coming})
    for _, mid in ipairs(coming) do
      self.counts[mid] = places(mid) + 1
      room.inside[mid] = true
      table.insert(self.came, {room, mid, {entry.seq, entry.seq, room.messages}})
    end
    return {seq = entry.seq, id = entry.id, members = coming}
  end

  function rules.left(draft)
    local room = room_of(draft.rid)
    if not room.there then return {error = 'not_found'} end
    local going = named(room, draft.members, true)
    if #going == 0 then return {nothing = true} end
    local entry = add(room, {kind = 'left', members = going})
    for _, mid in ipairs(going) do
      self.counts[mid] = places(mid) - 1
      room.inside[mid] = false
      table.insert(self.went, {room, mid})
    end
    return {seq = entry.seq, id = entry.id, members = going}
  end

  function self.decide(draft) return rules[draft.kind](draft) end
  return self
end

-- The new entries go to whoever listens on the room's channel: as bus/redis.py packs them, `chunk` bytes at a time.
-- `node`: who stores them, and needs not be told.
local function publish(channel, node, packed, chunk)
  local parts, size = {}, 0
  for at, entry in ipairs(packed) do
    table.insert(parts, entry)
    size = size + #entry
    if size >= chunk or at == #packed then
      redis.call('PUBLISH', channel, array({pack(node), array(parts)}))
      parts, size = {}, 0
    end
  end
end

local function store_entries(room, a)
  local log, cids, packed = log_of(room.rid), cids_of(room.rid), {}
  for _, new in ipairs(room.entries) do
    local entry = new.entry
    local text = pack(entry)
    redis.call('XADD', log, string.format('%.0f-0', entry.seq), 'k', entry.kind, 'n', new.nth, 'i', entry.id, 'e', text)
    if entry.kind == 'message' then
      local bucket, field = bucket_of(entry.id)
      redis.call('HSET', bucket, field, string.format('%.0f ', entry.seq) .. room.rid)
      if entry.cid then redis.call('HSET', cids, entry.mid .. '\0' .. entry.cid, entry.seq) end
    end
    table.insert(packed, text)
  end
  if #packed == 0 then return end
  if a.channel then publish(a.channel .. room.rid, a.node, packed, a.chunk) end
  if a.keep > 0 then
    local surplus = redis.call('XLEN', log) - a.keep
    if surplus > SLACK then forget_first(log, math.min(surplus, FORGOTTEN + #room.entries), cids) end
  end
end

-- a: drafts, ctime, limit (rooms of a member, 0 for any number), keep (entries of a room, 0 for all),
-- channel (what a room's channel begins with; nil: nobody is told), node (who asks), chunk (bytes). [whether it is stored, answers]
function calls.append(a)
  local batch, answers = decider(a.ctime, a.limit), {}
  for at, draft in ipairs(a.drafts) do answers[at] = batch.decide(draft) end
  if batch.misplaced then return pack({false, answers}) end
  for _, room in ipairs(batch.rooms) do
    if room.born then
      redis.call('HSET', BORN, room.rid, a.ctime)
      redis.call('ZADD', ROOMS, 0, room.rid)
    end
  end
  for _, gone in ipairs(batch.went) do drop_place(gone[1].rid, gone[2]) end
  for _, new in ipairs(batch.came) do
    local room, mid = new[1], new[2]
    redis.call('SADD', PEOPLE, mid)
    if room.inside[mid] then
      redis.call('ZADD', members_of(room.rid), 0, mid)
      redis.call('HSET', places_of(mid), room.rid, pack(new[3]))
    end
  end
  if batch.last_id > batch.stored_id then redis.call('SET', LAST_ID, string.format('%.0f', batch.last_id)) end
  for _, room in ipairs(batch.rooms) do store_entries(room, a) end
  return pack({true, answers})
end
