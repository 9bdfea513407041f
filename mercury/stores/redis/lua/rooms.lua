-- Rooms, their members, and members' places in them.

-- The heads of these rooms, in the order asked for; -1 for one that is not there.
function calls.heads(a)
  local heads = {}
  for at, rid in ipairs(a.rids) do heads[at] = is_room(rid) and tail(rid) or -1 end
  return pack(heads)
end

local function seen(rid)
  local head, messages = tail(rid)
  return {
    rid = rid, head = head, floor = floor_of(rid, head), messages = messages,
    members = redis.call('ZCARD', members_of(rid)), ctime = tonumber(redis.call('HGET', BORN, rid)),
  }
end

function calls.room(a) return is_room(a.rid) and pack(seen(a.rid)) or pack(nil) end

function calls.rooms(a)
  local rooms = redis.call('ZRANGEBYLEX', ROOMS, '(' .. a.after, '+', 'LIMIT', 0, a.limit)
  for at, rid in ipairs(rooms) do rooms[at] = seen(rid) end
  return pack(rooms)
end

function calls.members(a)
  return pack(redis.call('ZRANGEBYLEX', members_of(a.rid), '(' .. a.after, '+', 'LIMIT', 0, a.limit))
end

-- The log becomes a grave, which calls.bury empties bit by bit; an empty one with the old head takes its place.
-- false: there was no room; nil: somebody is in.
function calls.delete_room(a)
  local rid = a.rid
  if not is_room(rid) then return pack(false) end
  if redis.call('EXISTS', members_of(rid)) == 1 then return pack(nil) end
  local log, head = log_of(rid), tail(rid)
  redis.call('HDEL', BORN, rid)
  redis.call('ZREM', ROOMS, rid)
  redis.call('UNLINK', cids_of(rid))
  if redis.call('XLEN', log) > 0 then
    local grave = string.format('mercury:grave:%s', a.grave)
    redis.call('RENAME', log, grave)
    redis.call('RPUSH', GRAVES, grave)
    redis.call('XADD', log, string.format('%.0f-0', head), 'k', '')
    redis.call('XTRIM', log, 'MAXLEN', 0)
  end
  return pack(true)
end

-- Forget up to a.count entries of deleted rooms; how many they were.
function calls.bury(a)
  local grave = redis.call('LINDEX', GRAVES, 0)
  if not grave then return pack(0) end
  local count = forget_first(grave, a.count, nil)
  if redis.call('XLEN', grave) == 0 then
    redis.call('LPOP', GRAVES)
    redis.call('DEL', grave)
  end
  return pack(count)
end

-- a: mid, device. In no order.
function calls.places(a)
  local delivered, places = {}, {}
  local cursors = redis.call('HGETALL', cursors_of(a.mid, a.device))
  for at = 1, #cursors, 2 do delivered[cursors[at]] = tonumber(cursors[at + 1]) end
  local found = redis.call('HGETALL', places_of(a.mid))
  for at = 1, #found, 2 do
    local rid, place = found[at], unpack_one(found[at + 1])
    local head, messages = tail(rid)
    table.insert(places, {
      rid = rid, head = head, joined = place[1], read = place[2], unread = messages - place[3],
      delivered = delivered[rid],
    })
  end
  return pack(places)
end
