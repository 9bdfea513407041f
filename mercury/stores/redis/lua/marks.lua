-- Cursors, read marks, and keeping the tables of devices and tokens bounded.

-- a: cursors, now
function calls.move_cursors(a)
  local moved = {}
  for _, cursor in ipairs(a.cursors) do
    local rid, mid, device = cursor.rid, cursor.mid, cursor.device
    if redis.call('HEXISTS', places_of(mid), rid) == 1 then
      local key, seq = cursors_of(mid, device), math.min(cursor.seq, (tail(rid)))
      if seq > tonumber(redis.call('HGET', key, rid) or -1) then
        redis.call('HSET', key, rid, seq)
        moved[key] = {mid, device}
      end
    end
  end
  for _, whose in pairs(moved) do note_device(whose[1], whose[2], a.now) end
  return pack(nil)
end

-- How many messages a room has up to a seq. Of what is no longer kept it can only be said how many there were in all.
local function messages_up_to(rid, seq)
  local row = row_at_or_below(rid, seq)
  if row then return nth_of(row) end
  row = redis.call('XRANGE', log_of(rid), '-', '+', 'COUNT', 1)[1]
  if not row then return 0 end
  return nth_of(row) - (kind_of(row) == 'message' and 1 or 0)
end

-- a: marks. For each, the mark as it stands if this moved it, else -1.
function calls.move_reads(a)
  local answers = {}
  for at, mark in ipairs(a.marks) do
    local place = place_of(mark.rid, mark.mid)
    local read = place and math.min(mark.seq, (tail(mark.rid)))
    if place and read > place[2] then
      place = {place[1], read, messages_up_to(mark.rid, read)}
      redis.call('HSET', places_of(mark.mid), mark.rid, pack(place))
      answers[at] = read
    else
      answers[at] = -1
    end
  end
  return pack(answers)
end

local function drop_token(digest)
  local mid = redis.call('HGET', token_of(digest), 'mid')
  if not mid then return end
  redis.call('DEL', token_of(digest))
  redis.call('ZREM', tokens_of(mid), digest)
  redis.call('ZREM', EXPIRY, digest)
end

-- a: now, idle, devices, count (things done in one call at the most). How many things were done.
function calls.sweep(a)
  local done = 0
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', a.now, 'LIMIT', 0, a.count)) do
    drop_token(digest)
    done = done + 1
  end
  for _, both in ipairs(redis.call('ZRANGEBYSCORE', MOVED, '-inf', a.now - a.idle, 'LIMIT', 0, a.count)) do
    local mid, device = string.match(both, '^(%Z*)%z(%Z*)$')
    note_device(mid, device, nil)
    done = done + 1
  end
  local crowds = redis.call('ZRANGEBYSCORE', CROWDS, '(' .. a.devices, '+inf', 'LIMIT', 0, a.count)
  for _, mid in ipairs(crowds) do
    if done >= a.count then break end
    for _, device in ipairs(redis.call('ZREVRANGE', devices_of(mid), a.devices, a.devices + a.count - 1)) do
      note_device(mid, device, nil)
      done = done + 1
    end
  end
  return pack(done)
end
