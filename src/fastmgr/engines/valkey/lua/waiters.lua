-- Waiting: what locks, semaphores, conditions, events, barriers and queues have in common.
--
-- A waiter is a record: its name stands in a list of the object, in order.  The client that makes a
-- waiter due skips the dead, grants, and pushes a token to the waiter's own list `<key>:w:<waiter>`,
-- where the waiter blocks.  The records decide, the token only wakes: a waiter whose token was lost
-- with its connection asks by a `look`.
--
-- Replies of functions that may wait: {0} not granted, {1, ...} granted, {2, position} waiting,
-- {3} no record: what was granted has been given on, or the waiter was taken for dead.

-- What was granted last to each thread without a wait, and the waits that clients have given up
-- before this server has seen them: for a client that was interrupted before it had the reply.
local last, withdrawn = memory(), memory()

local function wake(k, w, token) call('RPUSH', k .. ':w:' .. w, token) end
local function unwake(k, w) return call('LPOP', k .. ':w:' .. w) end

local function waiting(k, queue, w)
  local at = call('LPOS', k .. ':' .. queue, w)
  if at then return {2, at} end
  return {3}
end

local function queue_up(k, queue, w)
  return {2, call('RPUSH', k .. ':' .. queue, w) - 1}
end

-- Where each waiter of a list is granted the same: one whose record is gone has been granted it.
local function look(k, queue, w)
  local found = waiting(k, queue, w)
  if found[1] == 3 then
    unwake(k, w)
    return {1}
  end
  return found
end

local function withdraw(k, queue, w)
  if call('LREM', k .. ':' .. queue, 1, w) == 0 then remember(withdrawn, w, true) end
  unwake(k, w)
  return {0}
end

-- Take the first waiter that lives out of a list; `bury` is called with each that does not.
local function next_waiter(k, queue, bury)
  while true do
    local w = call('LPOP', k .. ':' .. queue)
    if not w then return nil end
    if not is_dead(session_of(w)) then return w end
    unwake(k, w)
    if bury then bury(k, w) end
  end
end

local function wake_all(k, queue, token, bury)
  while true do
    local w = next_waiter(k, queue, bury)
    if not w then return end
    wake(k, w, token)
  end
end

-- A waiter that was granted something without a wait may be asked for it again.
local function granted(w) remember(last, thread_of(w), w) end
local function was_granted(w) return recall(last, thread_of(w)) == w end
local function ungrant(w) remember(last, thread_of(w), false) end

local function number(k, field) return tonumber(call('HGET', k, field) or 0) end
