-- Counters, values and arrays: STRING k.
--
-- Of a counter and of a value it is the encoded value.  Of an array, and of counters that have
-- indices, it is their machine representation, little-endian.  Lua's numbers are exact to 53 bits
-- only: sums of 64 bits are read back as text, or added byte by byte.

contains('Value', function(k) return {call('GET', k)} end)

-- `typeid session state field value ...`: the fields are of the main hash.
define_bare('number_make', function(K, A)
  open(K[1], A[1], A[2])
  if #A > 3 then call('HSET', K[1] .. ':m', unpack(A, 4)) end
  if A[3] ~= '' then call('SET', K[1], A[3]) end
  return 1
end)

-- `amount ...`: returns the sums, and of the first that does not fit {the value that there is}.
define('counter_incr', function(k, A)
  local sums = {}
  for i, amount in ipairs(A) do
    local sum = redis.pcall('INCRBY', k, amount)
    if type(sum) == 'table' then
      sums[i] = {call('GET', k)}
    elseif sum > -2 ^ 53 and sum < 2 ^ 53 then
      sums[i] = sum
    else
      sums[i] = call('GET', k)
    end
  end
  return sums
end)

-- `value`: returns what was there if that contains proxies.
define('value_set', function(k, A)
  local old = call('GET', k)
  call('SET', k, A[1])
  return refers(old) and old
end)

define('value_exchange', function(k, A)
  local old = call('GET', k)
  call('SET', k, A[1])
  return old
end)

-- `expected desired`: replace the value if it has these very bytes; else return it.
define('value_replace', function(k, A)
  local old = call('GET', k)
  if old ~= A[1] then return old end
  call('SET', k, A[2])
  return 1
end)

-- `amount`: returns the sum; where only the client can add, {the value}.
define('value_incr', function(k, A)
  local sum = redis.pcall('INCRBY', k, A[1])
  if type(sum) == 'number' then
    if sum > -2 ^ 53 and sum < 2 ^ 53 then return sum end
    return call('GET', k)
  end
  local old = call('GET', k)
  local total = sum_of(old, A[1])
  if not total then return {old} end
  call('SET', k, total)
  return total
end)

-- Arrays and counters with indices.  Of `size` bytes each; the code `u` stands for unsigned.

local function place(k, index, size)
  local length, at = call('STRLEN', k) / size, tonumber(index)
  if at < 0 then at = at + length end
  if at < 0 or at >= length then
    return nil, fail('INDEX', string.format('%.0f', length))
  end
  return at * size
end

-- Whether `i` and `u` can hold the last byte of a sum that has a byte more than the item.
local function fits(bytes, signed)
  local top = bytes[#bytes]
  if not signed then return top == 0 end
  return top == (bytes[#bytes - 1] >= 128 and 255 or 0)
end

-- `index size`
define('array_get', function(k, A)
  local size = tonumber(A[2])
  local at, failed = place(k, A[1], size)
  if not at then return failed end
  return call('GETRANGE', k, at, at + size - 1)
end, 'no-writes')

-- `index size item`
define('array_set', function(k, A)
  local at, failed = place(k, A[1], tonumber(A[2]))
  if not at then return failed end
  local old = call('GETRANGE', k, at, at + #A[3] - 1)
  call('SETRANGE', k, at, A[3])
  return old
end)

-- `index size expected desired`: what is expected may be of another size than an item.
define('array_replace', function(k, A)
  local at, failed = place(k, A[1], tonumber(A[2]))
  if not at then return failed end
  if call('GETRANGE', k, at, at + A[2] - 1) ~= A[3] then return 0 end
  call('SETRANGE', k, at, A[4])
  return 1
end)

local function in_hex(data)
  return (string.gsub(data, '.', function(c) return string.format('%02x', string.byte(c)) end))
end

-- `index size signed amount`, which has a byte more than the item: returns the sum's bytes.
define('array_incr', function(k, A)
  local size, signed, amount = tonumber(A[2]), A[3] == '1', A[4]
  local at, failed = place(k, A[1], size)
  if not at then return failed end
  local old = call('GETRANGE', k, at, at + size - 1)
  local bytes, carry = {string.byte(old, 1, size)}, 0
  bytes[size + 1] = signed and bytes[size] >= 128 and 255 or 0
  for i = 1, size + 1 do
    local sum = bytes[i] + string.byte(amount, i) + carry
    bytes[i] = sum % 256
    carry = sum >= 256 and 1 or 0
  end
  if not fits(bytes, signed) then return fail('OVERFLOW', in_hex(old)) end
  bytes[size + 1] = nil
  local new = string.char(unpack(bytes))
  call('SETRANGE', k, at, new)
  return new
end)

-- `expected desired`: replace all.
define('array_assign', function(k, A)
  if (call('GET', k) or '') ~= A[1] then return 0 end
  call('SET', k, A[2])
  return 1
end)

define('array_items', function(k) return call('GET', k) or '' end, 'no-writes')

-- `length size`: have at least so many, of which those that are new are 0.
define('array_grow', function(k, A)
  local size = tonumber(A[1]) * tonumber(A[2])
  if call('STRLEN', k) < size then call('SETRANGE', k, size - 1, '\0') end
  return 1
end)
