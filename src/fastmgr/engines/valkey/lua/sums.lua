-- The sum that Lua can tell of two encoded numbers: of floats, or of an int and a float; nothing for other values.
local function sum_of(old, amount)
  local a, b = string.match(old, '^f?(-?[%d.einfa+-]+)$'), string.match(amount, '^f?(.+)$')
  a, b = a and tonumber(a), tonumber(b)
  if not a or not b or not (string.byte(old) == 102 or string.byte(amount) == 102) then
    return nil
  end
  local sum = a + b
  if sum ~= sum then return 'fnan' end
  return string.format('f%.17g', sum)
end
