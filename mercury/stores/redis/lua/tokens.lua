-- Tokens; then the call that was asked for is made.

-- a: digest, mid, expires, keep
function calls.put_token(a)
  drop_token(a.digest)
  for _, digest in ipairs(redis.call('ZRANGE', tokens_of(a.mid), 0, -a.keep)) do drop_token(digest) end
  redis.call('SADD', PEOPLE, a.mid)
  redis.call('HSET', token_of(a.digest), 'mid', a.mid, 'expires', a.expires)
  redis.call('ZADD', tokens_of(a.mid), a.expires, a.digest)
  redis.call('ZADD', EXPIRY, a.expires, a.digest)
  return pack(nil)
end

-- [mid, expires] or nil
function calls.token(a)
  local found = redis.call('HMGET', token_of(a.digest), 'mid', 'expires')
  return found[1] and pack({found[1], tonumber(found[2])}) or pack(nil)
end

-- [[digest, expires], ...]
function calls.tokens(a)
  local found, tokens = redis.call('ZRANGE', tokens_of(a.mid), 0, -1, 'WITHSCORES'), {}
  for at = 1, #found, 2 do table.insert(tokens, {found[at], tonumber(found[at + 1])}) end
  return pack(tokens)
end

function calls.drop_token(a)
  local token = calls.token(a)
  drop_token(a.digest)
  return token
end

function calls.drop_tokens(a)
  local digests = redis.call('ZRANGE', tokens_of(a.mid), 0, -1)
  for _, digest in ipairs(digests) do drop_token(digest) end
  return pack(#digests)
end

function calls.is_member(a) return pack(redis.call('SISMEMBER', PEOPLE, a.mid) == 1) end

return calls[ARGV[1]](unpack_one(ARGV[2]))
