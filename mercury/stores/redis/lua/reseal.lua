-- Sealing a room's texts anew. A row of a stream cannot be changed, so the rows are carried over into a copy of the log,
-- some at a time, and at last the copy takes the log's place. One that nobody goes on with expires.

local KEPT = 3600  -- seconds that a copy is kept without going on

local function last_of(copy)
  local last = redis.call('XREVRANGE', copy, '+', '-', 'COUNT', 1)[1]
  return last and seq_of(last) or 0
end

-- Carry over up to `count` rows above what the copy has, up to `upto` ('+': the last one). `texts`: by seq, those that
-- take the place of the rows' own. The copy's last seq.
local function carry_over(rid, copy, upto, count, texts)
  local after = last_of(copy)
  for _, row in ipairs(redis.call('XRANGE', log_of(rid), string.format('%.0f', after + 1), upto, 'COUNT', count)) do
    local seq, packed = seq_of(row), packed_entry_of(row)
    local text = texts[seq]
    if text then
      local entry = unpack_one(packed)
      entry.text, entry.lost = text, 'no_key'
      packed = pack(entry)
    end
    redis.call('XADD', copy, row[1], 'k', kind_of(row), 'n', nth_of(row), 'i', id_of(row), 'e', packed)
    after = seq
  end
  redis.call('EXPIRE', copy, KEPT)
  return after
end

-- Whether to go on, or what to answer: 0 if there is no log any more, -1 if the copy is not what it was.
local function go_on(a)
  local there = is_room(a.rid) and redis.call('XLEN', log_of(a.rid)) > 0
  if there and last_of(a.copy) == a.after then return true end
  redis.call('DEL', a.copy)
  return false, there and -1 or 0
end

-- a: rid, copy, after (the copy's last seq), upto, count, texts ([seq, text]). How far the copy goes now.
function calls.carry_over(a)
  local good, answer = go_on(a)
  if not good then return pack(answer) end
  local texts = {}
  for _, text in ipairs(a.texts) do texts[text[1]] = text[2] end
  return pack(carry_over(a.rid, a.copy, string.format('%.0f', a.upto), a.count, texts))
end

-- Put the copy in the log's place, if at most a.count rows have come meanwhile. a: rid, copy, after, count.
-- How far the copy goes; 0 if it has the log's place.
function calls.put_copy(a)
  local good, answer = go_on(a)
  if not good then return pack(answer) end
  local head = tail(a.rid)
  local last = carry_over(a.rid, a.copy, '+', a.count, {})
  if last < head then return pack(last) end
  redis.call('XTRIM', a.copy, 'MINID', string.format('%.0f', floor_of(a.rid, head) + 1))
  redis.call('PERSIST', a.copy)
  redis.call('RENAME', a.copy, log_of(a.rid))
  return pack(0)
end
