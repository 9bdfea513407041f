-- Reading logs.

local PAGE = 128  -- entries looked at in one step, in search of messages

-- [entries, head, floor]
function calls.read(a)
  if not is_room(a.rid) then return array({array({}), pack(0), pack(0)}) end
  local head = tail(a.rid)
  local entries = {}
  local rows = redis.call('XRANGE', log_of(a.rid), string.format('%.0f', a.after + 1), '+', 'COUNT', a.limit)
  for at, row in ipairs(rows) do entries[at] = packed_entry_of(row) end
  return array({array(entries), pack(head), pack(floor_of(a.rid, head))})
end

-- [entries, whether there are more that way]. a: rid, limit, before, after; see IStore.history.
function calls.history(a)
  local log, found, forward = log_of(a.rid), {}, a.after ~= nil
  local low = string.format('%.0f', (a.after or 0) + 1)
  local high = a.before and string.format('%.0f', math.max(a.before - 1, 0)) or '+'
  repeat
    local rows
    if forward then
      rows = redis.call('XRANGE', log, low, high, 'COUNT', PAGE)
    else
      rows = redis.call('XREVRANGE', log, high, low, 'COUNT', PAGE)
    end
    for _, row in ipairs(rows) do
      if kind_of(row) == 'message' then table.insert(found, packed_entry_of(row)) end
    end
    local last = rows[#rows]
    if last and forward then low = string.format('%.0f', seq_of(last) + 1) end
    if last and not forward then high = string.format('%.0f', seq_of(last) - 1) end
  until #rows < PAGE or #found > a.limit
  local entries = {}
  for at = 1, math.min(#found, a.limit) do
    if forward then entries[at] = found[at] else table.insert(entries, 1, found[at]) end
  end
  return array({array(entries), pack(#found > a.limit)})
end

-- [rid, seq] or nil
function calls.locate(a)
  local bucket, field = bucket_of(a.id)
  local found = redis.call('HGET', bucket, field)
  if not found then return pack(nil) end
  local seq, rid = string.match(found, '^(%d+) (.*)$')
  local row = row_at(rid, tonumber(seq))  -- ids of a deleted room are forgotten a little later
  return row and id_of(row) == a.id and pack({rid, tonumber(seq)}) or pack(nil)
end

-- The lowest seq whose id is a.id or greater: seqs have no holes, and ids grow with them.
function calls.locate_in_room(a)
  if not is_room(a.rid) then return pack(1) end
  local head = tail(a.rid)
  local low, high = floor_of(a.rid, head) + 1, head + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if id_of(row_at(a.rid, middle)) >= a.id then high = middle else low = middle + 1 end
  end
  return pack(low)
end

-- a: epoch, now (microseconds). The first id that an entry will get.
function calls.begin_anew(a)
  local first = 0
  for _, key in ipairs({LAST_LINK, LAST_ACCOUNT, LAST_ID}) do
    first = math.max(tonumber(redis.call('GET', key) or 0), a.now) + 1
    redis.call('SET', key, string.format('%.0f', first - 1))
  end
  redis.call('SET', EPOCH, a.epoch)
  return pack(first)
end
