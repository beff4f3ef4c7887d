# cython: auto_pickle=False
"""Locks and conditions; a slot says which owner holds a lock (`kinds/slots.pxd`)."""

from libc.math cimport INFINITY

from fastmgr.kinds.slots cimport (
    LOCAL, OWNER_DIED, depth_of, holder_of, party_of, session_of, set_depth, step_down,
    take_or_contend, take_rlock,
)
from fastmgr.kinds.waits cimport Slots, Waiter, current_owner, shown_module, still_waiting
from fastmgr.memory.arena cimport KIND_LOCK, KIND_NONE, KIND_RLOCK, Cell
from fastmgr.memory.atomics cimport THREAD_BITS, uint64_t

import threading
from collections import deque
from time import monotonic


cdef object lock_timeout(object blocking, object timeout):
    """Return how long an `acquire` waits: None for ever, 0 not at all."""
    if type(blocking) is not bool or type(timeout) is not int or timeout != -1:
        # Wrong arguments get this interpreter's own message.
        threading.Lock().acquire(blocking, timeout)
    if not blocking:
        return 0
    timeout = <double>timeout
    return None if timeout == -1 else timeout


cdef class Lock(Slots):
    """As `threading.Lock`: anybody may release it."""

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_LOCK

    def __init__(self, *args, **kwds):
        if args or kwds:
            threading.Lock(*args, **kwds)   # raises as this interpreter does

    cdef inline uint64_t holder(self) noexcept:
        """The owner's number; 0 where the lock is free."""
        return holder_of(self.slot(0))

    cdef bint take_now(self, uint64_t owner, bint wanted):
        """Take the lock if it is free; else contend it, if the owner will wait (`wanted`)."""
        return self.take_any(owner, wanted)

    cdef bint let_go(self) except -1:
        """Hand the lock to the first in the queue, or free it."""
        return self.hand_on(0, self.holder(), 0)

    cdef int take_back(self, Waiter waiter) except -1:
        if waiter.value is True and waiter.depth == 0:
            self.hand_on(0, waiter.owner.number, OWNER_DIED if waiter.cut_off else 0)
        return 0

    def _acquire(self, Waiter waiter, blocking=True, timeout=-1):
        timeout = lock_timeout(blocking, timeout)
        if self.take_now(waiter.owner.number, timeout is None or timeout != 0):
            waiter.done(True)
        elif timeout == 0:
            waiter.done(False)
        else:
            self.park(waiter, self.waiting, timeout)

    def acquire(self, blocking=True, timeout=-1):
        return self.block("acquire", (blocking, timeout))

    def release(self):
        cdef uint64_t holder, releaser = party_of(current_owner().number)
        while True:
            holder = self.holder()
            if self.returned and party_of(holder) != releaser:
                self.returned -= 1
                return
            if holder == 0:
                raise RuntimeError("release unlocked lock")
            if self.hand_on(0, holder, 0):
                return

    def locked(self):
        return self.holder() != 0

    def __repr__(self):
        state = "locked" if self.holder() else "unlocked"
        return f"<{state} {shown_module(self)}.{type(self).__name__} object at {id(self):#x}>"


cdef str shown_owner(uint64_t owner):
    """An owner as text: the numbers of session and thread, or its own; 0 for nobody."""
    if session_of(owner):
        return f"{session_of(owner)}.{owner & ((<uint64_t>1 << THREAD_BITS) - 1)}"
    return f"{owner & ~LOCAL}"


cdef class RLock(Lock):
    """As `threading.RLock`: its owner may take it again, and nobody else may release it."""

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_RLOCK
        self.cell = Cell(2 * sizeof(uint64_t))

    def __init__(self, *args, **kwds):
        if args or kwds:
            threading.RLock(*args, **kwds)  # some interpreters take any

    cdef bint take_now(self, uint64_t owner, bint wanted):
        if take_rlock(self.slot(0), owner):
            if depth_of(self.slot(0)) == 1:
                self.note_grant(0, owner)
            return True
        if not wanted or not take_or_contend(self.slot(0), owner):
            return False
        set_depth(self.slot(0), 1)
        self.note_grant(0, owner)
        return True

    cdef int prepare(self, Waiter waiter) except -1:
        set_depth(self.slot(0), <uint64_t>waiter.depth if waiter.again else 1)
        return 0

    cdef int take_back(self, Waiter waiter) except -1:
        if waiter.value is True and waiter.depth == 0 and self.holder() == waiter.owner.number:
            if not step_down(self.slot(0)):
                Lock.take_back(self, waiter)
        return 0

    def __repr__(self):
        cdef uint64_t owner = self.holder()
        state, count = ("locked", depth_of(self.slot(0))) if owner else ("unlocked", 0)
        return (
            f"<{state} {shown_module(self)}.RLock object owner={shown_owner(owner)} "
            f"count={count} at {id(self):#x}>"
        )

    def release(self):
        if self.holder() != current_owner().number:
            raise RuntimeError("cannot release un-acquired lock")
        if not step_down(self.slot(0)):
            self.let_go()


cdef class Condition(RLock):
    """As `threading.Condition` with a lock of its own."""

    cdef object sleeping     # deque of Waiter: those that nobody has notified yet
    cdef dict owed           # owner -> at which depth it owned the lock before its wait was cut off

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_NONE   # no client changes the slot, so it need not be contended
        self.sleeping = deque()
        self.owed = {}

    cdef int blocks(self, object name):
        return name == "acquire" or name == "wait"

    cdef list waiters(self):
        return still_waiting(self.waiting) + still_waiting(self.sleeping)

    cdef int end_sleep(self, Waiter waiter, bint notified) except -1:
        """End a waiter's sleep; its call goes on when it owns the lock again."""
        waiter.again = True
        waiter.value = waiter.notified = notified
        waiter.deadline = INFINITY
        self.waiting.append(waiter)
        return 0

    cdef bint notify_first(self) except -1:
        """Notify the first sleeper whose client lives; False if there is none."""
        cdef Waiter waiter
        while self.sleeping:
            waiter = self.sleeping.popleft()
            if waiter.is_there():
                self.end_sleep(waiter, True)
                return True
            self.finish_dead(waiter)
        return False

    cdef int serve_if_free(self) except -1:
        """Give the lock, if it is free, to the first in the queue."""
        if self.waiting and self.holder() == 0:
            self.let_go()
        return 0

    cdef int expire(self, Waiter waiter) except -1:
        if waiter.finished or waiter.again:
            return 0
        if waiter.depth == 0:
            return Lock.expire(self, waiter)     # its call is `acquire`
        self.sleeping.remove(waiter)
        self.end_sleep(waiter, False)
        return self.serve_if_free()

    cdef int cancel(self, Waiter waiter) except -1:
        if waiter.finished or waiter.depth == 0:
            return Lock.cancel(self, waiter)
        if waiter.again:
            self.unqueue(waiter)
        else:
            self.sleeping.remove(waiter)
        self.finish_dead(waiter)
        return self.serve_if_free()

    cdef int finish_dead(self, Waiter waiter) except -1:
        if waiter.depth:
            if session_of(waiter.owner.number):
                # An exception may have ended its call.  Then the same thread asks for the lock
                # again, over another connection.
                self.owed[waiter.owner.number] = waiter.depth
            if waiter.notified:
                self.notify_first()     # another gets the notification
        return waiter.finish_unanswered()

    cdef int take_back(self, Waiter waiter) except -1:
        if waiter.depth == 0:
            return RLock.take_back(self, waiter)
        if waiter.notified:
            self.notify_first()
        return 0        # the owner keeps the lock

    cdef int leave(self, Waiter waiter) except -1:
        cdef bint waits = not waiter.finished and waiter.depth > 0
        Lock.leave(self, waiter)
        if waits:
            # `threading.Condition.wait` owns the lock again, whatever ends it.
            self.block("acquire", ())
            set_depth(self.slot(0), <uint64_t>waiter.depth)
        return 0

    cdef int hand_on_all_of(self, uint64_t session) except -1:
        self.owed = {
            owner: depth for owner, depth in self.owed.items() if session_of(owner) != session
        }
        return Lock.hand_on_all_of(self, session)

    cdef bint take_now(self, uint64_t owner, bint wanted):
        self.owed.pop(owner, None)
        return RLock.take_now(self, owner, wanted)

    def _acquire(self, Waiter waiter, blocking=True, timeout=-1, restoring=False):
        """With `restoring` own the lock again, as before a wait that was cut off."""
        cdef uint64_t owner = waiter.owner.number
        cdef Waiter other
        if not restoring:
            return Lock._acquire(self, waiter, blocking, timeout)
        if self.holder() == owner:
            waiter.depth = 1    # the owner keeps the lock, whatever becomes of this call
            waiter.done(True)
            return
        for other in [*self.sleeping, *self.waiting]:
            if other.depth and other.owner.number == owner and not other.finished:
                self.cancel(other)      # the server has not seen the end of its connection yet
        waiter.depth = self.owed.pop(owner, 1)
        if self.take_any(owner, True):
            set_depth(self.slot(0), <uint64_t>waiter.depth)
            waiter.done(True)
        else:
            waiter.again = True
            waiter.value = True
            self.park(waiter, self.waiting, None)

    def acquire(self, blocking=True, timeout=-1, restoring=False):
        return self.block("acquire", (blocking, timeout, restoring))

    def _wait(self, Waiter waiter, timeout=None):
        if self.holder() != waiter.owner.number:
            raise RuntimeError("cannot wait on un-acquired lock")
        self.park(waiter, self.sleeping, timeout)
        waiter.depth = <Py_ssize_t>depth_of(self.slot(0))
        self.let_go()

    def __repr__(self):
        cdef Waiter waiter
        there = sum(not waiter.finished for waiter in self.sleeping)
        return f"<{type(self).__name__}({RLock.__repr__(self)}, {there})>"

    def wait(self, timeout=None):
        return self.block("wait", (timeout,))

    def wait_for(self, predicate, timeout=None):
        deadline = None if timeout is None else monotonic() + timeout
        left = timeout
        result = predicate()
        while not result:
            self.wait(left)
            result = predicate()
            if deadline is not None:
                left = deadline - monotonic()
                if left <= 0:
                    break
        return result

    def notify(self, n=1):
        if self.holder() != current_owner().number:
            raise RuntimeError("cannot notify on un-acquired lock")
        while n > 0 and self.notify_first():
            n -= 1

    def notify_all(self):
        self.notify(len(self.sleeping))
