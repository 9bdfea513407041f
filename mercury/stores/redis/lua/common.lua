-- What all calls share: where each thing is kept, and how logs and places are read and changed.
--
-- These files are one script, put together in this order by mercury/stores/redis/script.py: common, append, log, rooms,
-- marks, accounts, reseal, tokens. Redis runs a script alone and whole, so each call is a transaction: it looks at everything
-- first and writes last, since a script that fails does not take back what it wrote. Numbers stay below 2^53, which Lua
-- can count.
--
-- NUL separates the parts of a key or field: no name holds one.

local EPOCH = 'mercury:epoch'    -- drawn when the store was made, or put back from a backup
local BORN = 'mercury:born'      -- hash: room -> when it came into being; whoever is not here is no room
local ROOMS = 'mercury:rooms'    -- sorted set: rooms by name, for pages
local PEOPLE = 'mercury:people'  -- set: all members that ever came into being
local LAST_ID = 'mercury:id'     -- the last entry id that was given out
local MOVED = 'mercury:moved'    -- sorted set: member NUL device -> when its cursors or list of Handed last changed
local CROWDS = 'mercury:crowds'  -- sorted set: member -> how many devices they have
local GRAVES = 'mercury:graves'  -- list: keys of deleted logs whose ids still have to be forgotten
local EXPIRY = 'mercury:expiry'  -- sorted set: digest -> when the token expires
local ACCOUNTS = 'mercury:accounts'        -- hash: what an account's name is compared by -> its id
local LAST_ACCOUNT = 'mercury:account-id'  -- the last account id that was given out
local LAST_LINK = 'mercury:link-id'        -- the last number of a link between friends

local function log_of(rid) return 'mercury:log:' .. rid end             -- stream: <seq>-0 -> k kind, n nth, i id, e entry
local function cids_of(rid) return 'mercury:cids:' .. rid end           -- hash: author NUL cid -> seq
local function members_of(rid) return 'mercury:members:' .. rid end     -- sorted set: members by name
local function places_of(mid) return 'mercury:places:' .. mid end       -- hash: room -> [joined, read, nth at read]
local function devices_of(mid) return 'mercury:devices:' .. mid end     -- sorted set: device -> when it last moved
local function cursors_of(mid, device) return 'mercury:cursors:' .. mid .. '\0' .. device end  -- hash: room -> seq
local function handed_of(mid, device) return 'mercury:handed:' .. mid .. '\0' .. device end  -- list of Handed, packed
-- 'mercury:copy:' and a random name: a log that is being sealed anew, see reseal.lua
local function token_of(digest) return 'mercury:token:' .. digest end   -- hash: mid, expires
local function tokens_of(mid) return 'mercury:tokens:' .. mid end       -- sorted set: digest -> when it expires

local function account_of(id) return 'mercury:account:' .. id end       -- hash: name, secret
local function friends_of(id) return 'mercury:friends:' .. id end       -- sorted set: friend's id -> the link's number

local PER_BUCKET = 100  -- small hashes take little memory

-- Where an id's room and seq stand: a hash of neighbours, and the field in it.
local function bucket_of(id)
  return string.format('mercury:ids:%.0f', math.floor(id / PER_BUCKET)), string.format('%.0f', id)
end

local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack

-- A MessagePack array of parts that are packed already.
local function array(parts)
  local n, head = #parts, nil
  if n < 16 then head = string.char(0x90 + n)
  elseif n < 65536 then head = string.char(0xdc, math.floor(n / 256), n % 256)
  else head = string.char(0xdd, 0, math.floor(n / 65536), math.floor(n / 256) % 256, n % 256) end
  return head .. table.concat(parts)
end

-- A row of a stream: {'<seq>-0', {'k', kind, 'n', nth, 'i', id, 'e', entry}}. `nth`: the room's messages up to it.
local function seq_of(row) return tonumber(string.match(row[1], '^%d+')) end
local function kind_of(row) return row[2][2] end
local function nth_of(row) return tonumber(row[2][4]) end
local function id_of(row) return tonumber(row[2][6]) end
local function packed_entry_of(row) return row[2][8] end

local function is_room(rid) return redis.call('HEXISTS', BORN, rid) == 1 end

-- The row with the highest seq up to `seq`; nil if there is none.
local function row_at_or_below(rid, seq)
  return redis.call('XREVRANGE', log_of(rid), string.format('%.0f', seq), '-', 'COUNT', 1)[1]
end

local function row_at(rid, seq)
  local id = string.format('%.0f', seq)
  return redis.call('XRANGE', log_of(rid), id, id, 'COUNT', 1)[1]
end

-- The log's last seq, how many messages were stored, the last id. A log without entries may have had some before.
local function tail(rid)
  local log = log_of(rid)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then return seq_of(last), nth_of(last), id_of(last) end
  if redis.call('EXISTS', log) == 0 then return 0, 0, 0 end
  local info = redis.call('XINFO', 'STREAM', log)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then return seq_of({info[at + 1]}), 0, 0 end
  end
end

-- The last seq that is no longer kept.
local function floor_of(rid, head)
  local first = redis.call('XRANGE', log_of(rid), '-', '+', 'COUNT', 1)[1]
  return first and seq_of(first) - 1 or head
end

local function place_of(rid, mid)
  local place = redis.call('HGET', places_of(mid), rid)
  if place then return unpack_one(place) end
end

-- Devices: `now` nil drops the device, and what is kept of it.
local function note_device(mid, device, now)
  local devices, both = devices_of(mid), mid .. '\0' .. device
  if now then
    redis.call('ZADD', devices, now, device)
    redis.call('ZADD', MOVED, now, both)
  else
    redis.call('ZREM', devices, device)
    redis.call('ZREM', MOVED, both)
    redis.call('DEL', cursors_of(mid, device), handed_of(mid, device))
  end
  local count = redis.call('ZCARD', devices)
  if count > 0 then redis.call('ZADD', CROWDS, count, mid) else redis.call('ZREM', CROWDS, mid) end
end

local function drop_device_if_empty(mid, device)
  if redis.call('EXISTS', cursors_of(mid, device), handed_of(mid, device)) == 0 then note_device(mid, device, nil) end
end

-- A member is out of a room: their place and their devices' cursors there are gone.
local function drop_place(rid, mid)
  redis.call('HDEL', places_of(mid), rid)
  redis.call('ZREM', members_of(rid), mid)
  for _, device in ipairs(redis.call('ZRANGE', devices_of(mid), 0, -1)) do
    if redis.call('HDEL', cursors_of(mid, device), rid) == 1 then drop_device_if_empty(mid, device) end
  end
end

-- Drop the first `count` entries of a log with the ids, and cids if `cids` is given, that lead to them.
local function forget_first(log, count, cids)
  local rows = redis.call('XRANGE', log, '-', '+', 'COUNT', count)
  for _, row in ipairs(rows) do
    if kind_of(row) == 'message' then
      redis.call('HDEL', bucket_of(id_of(row)))
      local entry = cids and unpack_one(packed_entry_of(row))
      if entry and entry.cid then redis.call('HDEL', cids, entry.mid .. '\0' .. entry.cid) end
    end
  end
  if #rows > 0 then redis.call('XTRIM', log, 'MINID', string.format('%.0f', seq_of(rows[#rows]) + 1)) end
  return #rows
end

local calls = {}
