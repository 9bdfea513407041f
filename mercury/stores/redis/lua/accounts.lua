-- IAccounts: accounts, friends, and what was handed over to devices. Ids come as text, since any integer may come.

local function account(id)
  local found = redis.call('HMGET', account_of(id), 'name', 'secret')
  return found[1] and pack({id = tonumber(id), name = found[1], secret = found[2]}) or pack(nil)
end

-- a: name, key, secret. The account's id; nil if another one has the key.
function calls.add_account(a)
  if redis.call('HEXISTS', ACCOUNTS, a.key) == 1 then return pack(nil) end
  local id = string.format('%.0f', redis.call('INCR', LAST_ACCOUNT))  -- as Lua writes it, a large one has an exponent
  redis.call('HSET', account_of(id), 'name', a.name, 'secret', a.secret)
  redis.call('HSET', ACCOUNTS, a.key, id)
  return pack(tonumber(id))
end

function calls.account(a)
  local id = redis.call('HGET', ACCOUNTS, a.key)
  return id and account(id) or pack(nil)
end

function calls.account_of(a) return account(a.id) end

function calls.change_secret(a)
  if redis.call('EXISTS', account_of(a.id)) == 1 then redis.call('HSET', account_of(a.id), 'secret', a.secret) end
  return pack(nil)
end

-- a: pair, most. The link's number, and 0 or which of the two has too many friends.
function calls.add_friend(a)
  local one, other = a.pair[1], a.pair[2]
  local link = redis.call('ZSCORE', friends_of(one), other)
  if link then return pack({tonumber(link), 0}) end
  for _, id in ipairs(a.pair) do
    if redis.call('ZCARD', friends_of(id)) >= a.most then return pack({0, tonumber(id)}) end
  end
  link = redis.call('INCR', LAST_LINK)
  redis.call('ZADD', friends_of(one), link, other)
  redis.call('ZADD', friends_of(other), link, one)
  return pack({link, 0})
end

function calls.friends(a) return pack(redis.call('ZRANGE', friends_of(a.id), 0, -1)) end

-- a: mid, device, handed, now
function calls.put_handed(a)
  local mid, device = a.mid, a.device
  if #a.handed > 0 then
    redis.call('SET', handed_of(mid, device), pack(a.handed))
    note_device(mid, device, a.now)
  else
    redis.call('DEL', handed_of(mid, device))
    drop_device_if_empty(mid, device)
  end
  return pack(nil)
end

function calls.handed(a) return redis.call('GET', handed_of(a.mid, a.device)) or pack({}) end
