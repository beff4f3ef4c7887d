# cython: auto_pickle=False
"""Primitives whose waiters are records, not threads.

A call that must wait leaves a `Waiter` in the primitive's queue and the caller
goes away; whoever makes it due finishes the record, which then finds its way:
for a client, the loop sends the reply; for a thread in this process, its gate
opens.  So ten thousand waiting clients cost ten thousand records, a waiter whose
client died is passed over and takes nothing, and waiters are served first come,
first served.

What a thread owns in `threading`, here a connection owns: a client's connection
is its thread.  Meaning and errors are those of `threading` and `queue`.

Every step runs under the GIL and gives nothing away in between: what it needs is
allocated first, then the books are changed.
"""

cimport cython

from fastmgr.kinds.slots cimport (
    LOCAL, OWNER_DIED, clear_owner_died, depth_of, hand_to, holder_of, leave_free, mark_owner_died,
    owner_died, party_of, raise_flag, session_of, set_depth, step_down, take_or_contend, take_rlock,
    take_slot,
)
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.memory.cells cimport (
    KIND_EVENT, KIND_LOCK, KIND_NONE, KIND_RLOCK, KIND_SEMAPHORE, Cell, Celled,
)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

import queue
import threading
from collections import deque
from math import ceil
from time import monotonic

# A semaphore's permits that clients take and give back by themselves.
cdef enum:
    MOST_SLOTS = 64

cdef double FOREVER = float("inf")
cdef double TIMEOUT_MAX = threading.TIMEOUT_MAX

# Who the calling thread acts for: `.owner` is a connection while its call is served, `.thread`
# what the thread is by itself.
here = threading.local()
cdef uint64_t owners_without_session = 0


cdef class Owner:
    """Who may hold something: a connection, or a thread in here."""

    def __cinit__(self, *args, **kwds):
        self.belong(0, 0)

    cdef void belong(self, uint64_t session, uint64_t thread) noexcept:
        """Be a thread of a session, or (0) of none."""
        global owners_without_session
        if session:
            self.number = session << THREAD_BITS | thread
        else:
            owners_without_session += 1
            self.number = LOCAL | owners_without_session

    cdef bint is_there(self) noexcept:
        """Whether the owner can still be given something; a thread in here always can."""
        return True

    cdef void serve_no_more(self) noexcept:
        """The owner's wait was cancelled: nothing that it asked for after it may be done."""


cdef Owner current_owner():
    owner = getattr(here, "owner", None)
    if owner is None:
        owner = getattr(here, "thread", None)
        if owner is None:
            here.thread = owner = Owner()
    return owner


@cython.final
cdef class Waiter:
    """One call that waits."""

    def __init__(self, Owner owner not None, sink=None):
        self.owner = owner
        self.sink = sink
        self.deadline = FOREVER

    cdef bint is_there(self):
        """Whether there is anybody to be given something."""
        return not self.gone and self.owner.is_there()

    cdef int done(self, object value) except -1:
        """Finish with a result; of two that try the first wins."""
        if self.finished:
            return 0
        self.finished = True
        self.value = value
        if self.gate is not None:
            self.gate.release()
        elif self.at is not None:
            self.sink(self)     # whoever asked has gone away to wait
        return 0

    cdef int abandon(self) except -1:
        """Finish without a result: nobody is there to take it."""
        self.finished = self.failed = True
        if self.gate is not None:
            self.gate.release()
        return 0

    cdef int fail(self, object error) except -1:
        if not self.finished:
            self.failed = True
            self.done(error)
        return 0


cdef class Primitive(Celled):
    """What the primitives share: the queue of waiters and the ways to wait."""

    def __cinit__(self, *args, **kwds):
        self.waiting = deque()

    # -- for the engine: all but `begin` may be called whatever has happened since --------

    cdef bint blocks(self, object name):
        """Whether the method of that name may have to wait."""
        return name == "acquire"

    cdef object begin(self, Waiter waiter, object name, object args, object kwds):
        """Start a blocking method; the waiter is finished, or queued."""
        try:
            return getattr(self, "_" + name)(waiter, *args, **kwds)
        except TypeError as error:
            # Ours takes an argument more, under another name.
            if not str(error).startswith(f"_{name}() "):
                raise
        given = ", ".join([*(type(arg).__name__ for arg in args), *(f"{key}=" for key in kwds)])
        raise TypeError(f"{type(self).__name__}.{name}() cannot be called with ({given})")

    cdef int expire(self, Waiter waiter) except -1:
        """The waiter's deadline has passed."""
        if not waiter.finished:
            self.pass_over(waiter)
            waiter.done(False)
        return 0

    cdef int cancel(self, Waiter waiter) except -1:
        """The waiter's client is dead."""
        if not waiter.finished:
            self.pass_over(waiter)
            waiter.abandon()
        return 0

    cdef int abandon(self, uint64_t session) except -1:
        """A client process has died: what it held is handed on."""
        return 0

    cdef int interrupted(self, Waiter waiter) except -1:
        """Take back what the waiter was given: its thread was interrupted, and has not got it."""
        return 0

    # -- for the primitives ---------------------------------------------------

    cdef str state(self):
        """What there is to see of it from outside."""
        raise NotImplementedError

    def __repr__(self):
        return f"<{type(self).__module__}.{type(self).__name__} at {id(self):#x}: {self.state()}>"

    cdef int park(self, Waiter waiter, object timeout) except -1:
        """Queue a waiter; no timeout, or None, waits for ever."""
        cdef double deadline = FOREVER if timeout is None else deadline_of(timeout)
        assert waiter.at is None and not waiter.finished    # in one queue at most
        waiter.at = self
        waiter.deadline = deadline
        self.waiting.append(waiter)
        return 0

    cdef Waiter next_waiter(self):
        """Take the first waiter that still waits out of the queue; None if there is none."""
        cdef Waiter waiter
        while self.waiting:
            waiter = self.waiting.popleft()
            if waiter.is_there():
                return waiter
            if waiter.gone:
                self.dead -= 1
            else:
                self.give_up(waiter)
        return None

    cdef int give_up(self, Waiter waiter) except -1:
        """Nobody is there for a waiter that is in no queue any more."""
        return waiter.abandon()

    cdef int pass_over(self, Waiter waiter) except -1:
        """Leave a waiter out; the queue is cleaned when most of it is such."""
        waiter.gone = True
        self.dead += 1
        if self.dead > 16 and self.dead > len(self.waiting) // 2:
            self.waiting = deque([w for w in self.waiting if not (<Waiter>w).gone])
            self.dead = 0
        return 0

    cdef object block(self, object name, tuple args):
        """Do a blocking method on the calling thread, for it or for whom it serves."""
        return self.wait_here(Waiter(current_owner()), name, args, {})

    cdef object wait_here(self, Waiter waiter, object name, object args, object kwds):
        """Do a blocking method on the calling thread, for the waiter's owner."""
        waiter.method = name
        waiter.gate = threading.Lock()
        waiter.gate.acquire()
        self.begin(waiter, name, args, kwds)
        if not waiter.finished:
            waiter.owner.waiter = waiter    # so that the loop can cancel the wait of a client
            try:
                while not waiter.finished:
                    if waiter.deadline == FOREVER:
                        waiter.gate.acquire()
                    else:
                        left = waiter.deadline - <double>monotonic()
                        if left <= 0 or not waiter.gate.acquire(True, min(left, TIMEOUT_MAX)):
                            waiter.deadline = FOREVER    # a Condition's may wait on, for the lock
                            waiter.at.expire(waiter)
            except BaseException:
                if waiter.finished:
                    self.interrupted(waiter)
                else:
                    self.cancel(waiter)
                    if waiter.depth:
                        # As `threading.Condition.wait` does, whatever ends it.
                        self.block("acquire", ())
                        set_depth((<RLock>self).slot(0), <uint64_t>waiter.depth)
                raise
            finally:
                waiter.owner.waiter = None
        if waiter.failed:
            if waiter.value is None:        # abandoned
                waiter.owner.serve_no_more()
                raise EOFError("the client that waited is gone")
            raise waiter.value
        return waiter.value


cdef double deadline_of(object timeout) except? -1:
    """When a wait of so many seconds that begins now is over."""
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("timeout=nan: no number of seconds")
    return <double>monotonic() + seconds


cdef object lock_timeout(object blocking, object timeout):
    """Check what `threading.Lock.acquire` takes; None to wait for ever, 0 not to wait."""
    if type(blocking) is not bool or type(timeout) is not int or timeout != -1:
        # Whatever this interpreter says of the arguments.
        threading.Lock().acquire(blocking, timeout)
    if not blocking:
        return 0
    timeout = <double>timeout
    return None if timeout == -1 else timeout


cdef object counted(object number):
    """A number of permits or parties; `threading` takes a float, too."""
    if number != int(number):
        raise ValueError(f"{number!r}: a whole number is needed")
    return int(number)


cdef class Slots(Primitive):
    """What can be held: in the cell a slot for each that may hold it at once.

    A client on the host takes a free slot, and frees one that is not contended, by an atomic
    step of its own.  To keep others from a slot until it is handed on the server marks it as
    contended; only the server changes such a slot.  So it first marks or takes, then queues.

    Whoever has nothing here may release all the same, as in `threading`: what somebody else has
    taken.  If that one's death has given it back before, such a release is that of what is back
    already, and changes nothing: it must not take from another, nor make something from nothing.
    """

    cdef size_t slots
    cdef Py_ssize_t returned    # given back because of deaths, and not released by anybody since

    def __cinit__(self, *args, **kwds):
        self.make_slots(1)

    cdef int make_slots(self, size_t slots) except -1:
        self.slots = slots
        self.cell = Cell(slots * sizeof(uint64_t))
        return 0

    cdef inline uint64_t *slot(self, size_t i) noexcept:
        return <uint64_t *>self.cell.at + i

    cdef bint take_any(self, uint64_t owner, bint wanted) noexcept:
        """Take a free slot; where all are held mark them as contended, if it is `wanted`."""
        cdef uint64_t *slot
        cdef size_t i
        for i in range(self.slots):
            slot = self.slot(i)
            if take_or_contend(slot, owner) if wanted else take_slot(slot, owner):
                return True
        return False

    cdef bint hand_on(self, size_t i, uint64_t holder, uint64_t died) except -1:
        """Give a slot to the first in the queue, or leave it free; False if not `holder` has it."""
        cdef uint64_t *slot = self.slot(i)
        cdef Waiter waiter
        if holder_of(slot) != holder:
            return False
        waiter = self.next_waiter()
        if waiter is None:
            return leave_free(slot, holder, died)
        self.prepare(waiter)
        assert holder and waiter.owner.number and not waiter.finished
        hand_to(slot, waiter.owner.number, died, len(self.waiting) > 0)
        waiter.done(waiter.value if waiter.again else True)
        return True

    cdef int prepare(self, Waiter waiter) except -1:
        """The waiter is about to become the owner of a slot, which still is held."""
        return 0

    cdef int abandon(self, uint64_t session) except -1:
        cdef uint64_t holder
        cdef size_t i
        for i in range(self.slots):
            holder = holder_of(self.slot(i))
            if session_of(holder) == session:
                self.returned += self.hand_on(i, holder, OWNER_DIED)
        return 0

    def owner_died(self):
        """Whether a client was killed while it held this; false again after `consistent`."""
        cdef size_t i
        for i in range(self.slots):
            if owner_died(self.slot(i)):
                return True
        return False

    def consistent(self):
        """Say that what this guards is in order, and that nobody releases for who died."""
        cdef size_t i
        self.returned = 0
        for i in range(self.slots):
            clear_owner_died(self.slot(i))


@cython.embedsignature(False)
cdef class Lock(Slots):
    """Lock()
--

    As `threading.Lock`: anybody may release it."""

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_LOCK

    def __init__(self, *args, **kwds):
        if args or kwds:
            threading.Lock(*args, **kwds)   # whatever this interpreter says of them

    cdef inline uint64_t holder(self) noexcept:
        """Who holds it, or 0."""
        return holder_of(self.slot(0))

    cdef bint take(self, uint64_t owner, bint wanted):
        """Take it; where it is held see to it that the server is asked for its release."""
        return self.take_any(owner, wanted)

    cdef bint free(self) except -1:
        """Hand it to the first in the queue, or leave it free."""
        return self.hand_on(0, self.holder(), 0)

    cdef int interrupted(self, Waiter waiter) except -1:
        if waiter.value is True and waiter.depth == 0:
            self.hand_on(0, waiter.owner.number, OWNER_DIED if waiter.cut_off else 0)
        return 0

    def _acquire(self, Waiter waiter, blocking=True, timeout=-1):
        timeout = lock_timeout(blocking, timeout)
        if self.take(waiter.owner.number, timeout is None or timeout != 0):
            waiter.done(True)
        elif timeout == 0:
            waiter.done(False)
        else:
            self.park(waiter, timeout)

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

    def __enter__(self):
        return self.block("acquire", ())

    def __exit__(self, *exc_info):
        self.release()

    def __repr__(self):
        state = "locked" if self.holder() else "unlocked"
        return f"<{state} {type(self).__module__}.{type(self).__name__} object at {id(self):#x}>"


cdef str shown_owner(uint64_t owner):
    """The number of a client's process and that of its thread; of who has none its own; or 0."""
    if session_of(owner):
        return f"{session_of(owner)}.{owner & ((<uint64_t>1 << THREAD_BITS) - 1)}"
    return f"{owner & ~LOCAL}"


@cython.embedsignature(False)
cdef class RLock(Lock):
    """RLock()
--

    As `threading.RLock`: its owner may take it again, and nobody else may release it."""

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_RLOCK
        self.cell = Cell(2 * sizeof(uint64_t))

    def __init__(self, *args, **kwds):
        if args or kwds:
            threading.RLock(*args, **kwds)  # some interpreters take any

    cdef bint take(self, uint64_t owner, bint wanted):
        if take_rlock(self.slot(0), owner):
            return True
        if not wanted or not take_or_contend(self.slot(0), owner):
            return False
        set_depth(self.slot(0), 1)
        return True

    cdef int prepare(self, Waiter waiter) except -1:
        set_depth(self.slot(0), <uint64_t>waiter.depth if waiter.again else 1)
        return 0

    cdef int interrupted(self, Waiter waiter) except -1:
        if waiter.value is True and waiter.depth == 0 and self.holder() == waiter.owner.number:
            if not step_down(self.slot(0)):
                Lock.interrupted(self, waiter)
        return 0

    def __repr__(self):
        cdef uint64_t owner = self.holder()
        state, count = ("locked", depth_of(self.slot(0))) if owner else ("unlocked", 0)
        return (
            f"<{state} {type(self).__module__}.RLock object owner={shown_owner(owner)} "
            f"count={count} at {id(self):#x}>"
        )

    def release(self):
        if self.holder() != current_owner().number:
            raise RuntimeError("cannot release un-acquired lock")
        if not step_down(self.slot(0)):
            self.free()


cdef class Condition(RLock):
    """As `threading.Condition` with a lock of its own."""

    cdef object sleeping     # deque of Waiter: not yet notified
    cdef dict owed           # owner -> the depth at which its wait was cut off

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_NONE   # its waiters are the server's in any case
        self.sleeping = deque()
        self.owed = {}

    cdef bint blocks(self, object name):
        return name == "acquire" or name == "wait"

    cdef int rise(self, Waiter waiter, bint notified) except -1:
        """The waiter's sleep is over; it goes on when it has the lock again."""
        waiter.again = True
        waiter.value = waiter.notified = notified
        waiter.deadline = FOREVER
        self.waiting.append(waiter)
        return 0

    cdef bint wake(self) except -1:
        """Notify the first who sleeps and is there; False if there is none."""
        cdef Waiter waiter
        while self.sleeping:
            waiter = self.sleeping.popleft()
            if waiter.is_there():
                self.rise(waiter, True)
                return True
            self.give_up(waiter)
        return False

    cdef int let_next(self) except -1:
        """See to it that nobody waits for a lock that is free."""
        if self.waiting and self.holder() == 0:
            self.free()
        return 0

    cdef int expire(self, Waiter waiter) except -1:
        if waiter.finished or waiter.again:
            return 0
        if waiter.depth == 0:
            return Lock.expire(self, waiter)     # it waits for the lock in `acquire`
        self.sleeping.remove(waiter)
        self.rise(waiter, False)
        return self.let_next()

    cdef int cancel(self, Waiter waiter) except -1:
        if waiter.finished or waiter.depth == 0:
            return Lock.cancel(self, waiter)
        if waiter.again:
            self.pass_over(waiter)
        else:
            self.sleeping.remove(waiter)
        self.give_up(waiter)
        return self.let_next()

    cdef int give_up(self, Waiter waiter) except -1:
        if waiter.depth:
            if session_of(waiter.owner.number):
                # Its thread may have been interrupted, and come by another connection.
                self.owed[waiter.owner.number] = waiter.depth
            if waiter.notified:
                self.wake()     # another is to have its notification
        return waiter.abandon()

    cdef int interrupted(self, Waiter waiter) except -1:
        if waiter.depth == 0:
            return RLock.interrupted(self, waiter)
        if waiter.notified:
            self.wake()
        return 0        # the lock is its owner's

    cdef int abandon(self, uint64_t session) except -1:
        self.owed = {
            owner: depth for owner, depth in self.owed.items() if session_of(owner) != session
        }
        return Lock.abandon(self, session)

    cdef bint take(self, uint64_t owner, bint wanted):
        self.owed.pop(owner, None)
        return RLock.take(self, owner, wanted)

    def _acquire(self, Waiter waiter, blocking=True, timeout=-1, restoring=False):
        """With `restoring` own the lock as before a wait that was cut off, if it is not so."""
        cdef uint64_t owner = waiter.owner.number
        cdef Waiter other
        if not restoring:
            return Lock._acquire(self, waiter, blocking, timeout)
        if self.holder() == owner:
            waiter.depth = 1    # it is the owner's, whatever becomes of this call
            waiter.done(True)
            return
        for other in [*self.sleeping, *self.waiting]:
            if other.depth and other.owner.number == owner and not other.finished:
                self.cancel(other)      # the end of its connection has not been seen yet
        waiter.depth = self.owed.pop(owner, 1)
        if self.take_any(owner, True):
            set_depth(self.slot(0), <uint64_t>waiter.depth)
            waiter.done(True)
        else:
            waiter.again = True
            waiter.value = True
            self.park(waiter, None)

    def acquire(self, blocking=True, timeout=-1, restoring=False):
        return self.block("acquire", (blocking, timeout, restoring))

    def _wait(self, Waiter waiter, timeout=None):
        if self.holder() != waiter.owner.number:
            raise RuntimeError("cannot wait on un-acquired lock")
        if timeout is not None:
            waiter.deadline = deadline_of(timeout)
        waiter.at = self
        waiter.depth = <Py_ssize_t>depth_of(self.slot(0))
        self.sleeping.append(waiter)
        self.free()

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
        while n > 0 and self.wake():
            n -= 1

    def notify_all(self):
        self.notify(len(self.sleeping))


@cython.embedsignature(False)
cdef class Semaphore(Slots):
    """Semaphore(value=1)
--

    As `threading.Semaphore`.

    Each of its first permits is a slot; those beyond `MOST_SLOTS`, and those that it was never
    given but had released to it, are the server's alone.

    Where several have permits and one who has none releases, nobody knows whose it is.  One of
    theirs is free then, and the next of them to die gives back one less.
    """

    cdef Py_ssize_t spare       # permits that are free and have no slot
    cdef dict held              # session -> permits without a slot that it has
    cdef Py_ssize_t unsure      # permits that were released for one who is not known

    def __init__(self, value=1):
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        value = counted(value)
        self.make_slots(value if value < MOST_SLOTS else MOST_SLOTS)
        self.kind = KIND_SEMAPHORE if self.slots else KIND_NONE
        self.spare = value - <Py_ssize_t>self.slots
        self.held = {}

    cdef Py_ssize_t value(self) noexcept:
        """The permits that are free."""
        cdef Py_ssize_t free = self.spare
        cdef size_t i
        for i in range(self.slots):
            free += holder_of(self.slot(i)) == 0
        return free

    cdef str state(self):
        return f"value={self.value()}"

    cdef bint take(self, uint64_t owner, bint wanted) except -1:
        if self.take_any(owner, wanted and self.spare == 0):
            return True
        if self.spare == 0:
            return False
        self.spare -= 1
        self.book(owner)
        return True

    cdef int book(self, uint64_t owner) except -1:
        session = session_of(owner)
        if session:
            self.held[session] = self.held.get(session, 0) + 1
        return 0

    cdef bint unbook(self, object session) except -1:
        cdef Py_ssize_t left = self.held.get(session, 0) - 1
        if left > 0:
            self.held[session] = left
        else:
            self.held.pop(session, None)
        return left >= 0

    cdef dict taken(self):
        """How many permits each has, by `party_of`."""
        cdef dict taken = self.held.copy()
        cdef uint64_t party
        cdef size_t i
        for i in range(self.slots):
            party = party_of(holder_of(self.slot(i)))
            if party:
                taken[party] = taken.get(party, 0) + 1
        return taken

    cdef int doubt(self, dict taken) except -1:
        """One of the permits taken by those was released, by none of them."""
        cdef Py_ssize_t left = sum(taken.values()) - 1
        self.unsure = min(self.unsure + (len(taken) > 1), left)
        return 0

    cdef Py_ssize_t unreturned(self, Py_ssize_t n) except -1:
        """How many of the `n` permits that the calling thread releases are not back already."""
        cdef Py_ssize_t foreign
        if self.returned == 0:
            return n
        foreign = n - <Py_ssize_t>self.taken().get(party_of(current_owner().number), 0)
        return n - min(max(foreign, 0), self.returned)

    cdef int give_back(self, uint64_t owner) except -1:
        """A permit is back: one of the releaser's own, or else of whoever has one."""
        cdef uint64_t session = session_of(owner), holder = 0, word
        cdef size_t i, found
        cdef dict others
        while True:
            found = self.slots
            for i in range(self.slots):
                word = holder_of(self.slot(i))
                if word == owner or (session and session_of(word) == session):
                    found, holder = i, word
                    break
                if word and session not in self.held:
                    found, holder = i, word
            if found == self.slots:
                break
            others = self.taken() if party_of(holder) != party_of(owner) else None
            if self.hand_on(found, holder, 0):
                if others is not None:
                    self.doubt(others)
                return 0
        if not self.unbook(session) and self.held:
            self.doubt(self.taken())
            self.unbook(next(iter(self.held)))
        return self.give_spare()

    cdef int give_spare(self) except -1:
        """A permit that has no slot is free."""
        cdef Waiter waiter = self.next_waiter()
        if waiter is None:
            self.spare += 1
        else:
            self.book(waiter.owner.number)
            waiter.done(True)
        return 0

    cdef int abandon(self, uint64_t session) except -1:
        cdef uint64_t holder
        cdef size_t i
        cdef Py_ssize_t held = self.held.get(session, 0), kept, given
        kept = min(held, self.unsure)
        if kept < held:
            given = held - kept
            self.held[session] = kept
            self.returned += given
            if self.slots:
                mark_owner_died(self.slot(0))
            for _ in range(given):
                self.give_spare()
        if kept == 0:
            self.held.pop(session, None)
        self.unsure -= kept
        for i in range(self.slots):
            holder = holder_of(self.slot(i))
            if session_of(holder) == session:
                if self.unsure:
                    self.unsure -= 1
                else:
                    self.returned += self.hand_on(i, holder, OWNER_DIED)
        return 0

    cdef int interrupted(self, Waiter waiter) except -1:
        if waiter.value is True:
            self.give_back(waiter.owner.number)
        return 0

    def _acquire(self, Waiter waiter, blocking=True, timeout=None):
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        if self.take(waiter.owner.number, False):
            waiter.done(True)
        elif not blocking or (timeout is not None and <double>timeout <= 0):
            waiter.done(False)
        elif self.take(waiter.owner.number, True):
            waiter.done(True)
        else:
            self.park(waiter, timeout)

    def acquire(self, blocking=True, timeout=None):
        return self.block("acquire", (blocking, timeout))

    def release(self, n=1):
        if n < 1:
            raise ValueError("n must be one or more")
        cdef Py_ssize_t left = self.unreturned(n)
        if left > PY_SSIZE_T_MAX - self.value() - <Py_ssize_t>self.slots:
            raise OverflowError(f"release({n}): the semaphore's counter cannot be so high")
        self.returned -= n - left
        cdef uint64_t owner = current_owner().number
        # Not a step for each permit: n may be large, and others are waiting to be served.
        cdef Py_ssize_t steps = len(self.waiting) + sum(self.held.values()) + self.slots
        while left and steps and (
            self.waiting or self.held or self.value() < self.spare + <Py_ssize_t>self.slots
        ):
            self.give_back(owner)
            left -= 1
            steps -= 1
        self.spare += left

    def locked(self):
        return self.value() == 0

    def __enter__(self):
        return self.block("acquire", ())

    def __exit__(self, *exc_info):
        self.release()


cdef class BoundedSemaphore(Semaphore):
    """As `threading.BoundedSemaphore`."""

    cdef Py_ssize_t bound

    def __init__(self, value=1):
        Semaphore.__init__(self, value)
        self.bound = int(value)

    cdef str state(self):
        return f"value={self.value()}/{self.bound}"

    def release(self, n=1):
        if n < 1:
            raise ValueError("n must be one or more")
        if n > self.bound or self.value() + self.unreturned(n) > self.bound:
            raise ValueError("Semaphore released too many times")
        Semaphore.release(self, n)

    cdef int give_spare(self) except -1:
        if self.spare + <Py_ssize_t>sum(self.held.values()) >= self.bound - <Py_ssize_t>self.slots:
            return 0        # released by two at once, one of them a client by itself
        return Semaphore.give_spare(self)


@cython.embedsignature(False)
cdef class Event(Primitive):
    """Event()
--

    As `threading.Event`."""

    cdef bint flag          # the cell has a copy, for clients to read

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_EVENT
        self.cell = Cell(sizeof(uint64_t))

    def __init__(self):
        """Take no arguments: without this any would do."""

    cdef str state(self):
        return "set" if self.flag else "unset"

    cdef bint blocks(self, object name):
        return name == "wait"

    def _wait(self, Waiter waiter, timeout=None):
        if self.flag:
            waiter.done(True)
        elif timeout is not None and timeout <= 0:
            waiter.done(False)
        else:
            self.park(waiter, timeout)

    def wait(self, timeout=None):
        return self.block("wait", (timeout,))

    def is_set(self):
        return self.flag

    def set(self):
        cdef Waiter waiter
        self.flag = True
        raise_flag(<uint64_t *>self.cell.at, True)
        while True:
            waiter = self.next_waiter()
            if waiter is None:
                return
            waiter.done(True)

    def clear(self):
        self.flag = False
        raise_flag(<uint64_t *>self.cell.at, False)


cdef class Barrier(Primitive):
    """As `threading.Barrier` without an action."""

    cdef readonly Py_ssize_t parties
    cdef readonly bint broken
    cdef object timeout

    def __init__(self, parties, timeout=None):
        if parties < 1:
            raise ValueError("parties must be > 0")
        self.parties = counted(parties)
        self.timeout = timeout

    cdef str state(self):
        return "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"

    @property
    def n_waiting(self):
        """How many wait."""
        return len(self.waiting) - self.dead

    cdef bint blocks(self, object name):
        return name == "wait"

    cdef int break_up(self) except -1:
        cdef Waiter waiter
        while True:
            waiter = self.next_waiter()
            if waiter is None:
                return 0
            waiter.fail(threading.BrokenBarrierError())

    cdef int expire(self, Waiter waiter) except -1:
        if not waiter.finished:
            self.broken = True
            self.break_up()
        return 0

    def _wait(self, Waiter waiter, timeout=None):
        cdef Waiter other
        cdef Py_ssize_t index
        if timeout is None:
            timeout = self.timeout
        if self.broken:
            waiter.fail(threading.BrokenBarrierError())
            return
        if self.n_waiting + 1 < self.parties:
            self.park(waiter, timeout)
            return
        index = 0
        while True:
            other = self.next_waiter()
            if other is None:
                break
            other.done(index)
            index += 1
        waiter.done(index)

    def wait(self, timeout=None):
        return self.block("wait", (timeout,))

    def reset(self):
        self.broken = False
        self.break_up()

    def abort(self):
        self.broken = True
        self.break_up()


cdef object ShutDown = getattr(queue, "ShutDown", None)


@cython.embedsignature(False)
cdef class _BaseQueue(Primitive):
    """_BaseQueue(maxsize=0)
--

    As `queue.Queue`; `waiting` are those who get."""

    cdef readonly Py_ssize_t maxsize
    cdef object items
    cdef object putting         # deque of Waiter, each with its item
    cdef list joining
    cdef Py_ssize_t unfinished
    cdef readonly bint is_shutdown

    def __init__(self, maxsize=0):
        # So many are as good as any number. A queue is as full at 2.5 as at 3.
        self.maxsize = ceil(max(-PY_SSIZE_T_MAX, min(maxsize, PY_SSIZE_T_MAX)))
        self.items = deque()
        self.putting = deque()
        self.joining = []

    cdef str state(self):
        bound = f"/{self.maxsize}" if self.maxsize > 0 else ""
        return f"size={len(self.items)}{bound}" + ", shut down" * self.is_shutdown

    cdef bint blocks(self, object name):
        return name == "get" or name == "put" or name == "join" or name == "get_nowait"

    cdef int add(self, object item) except -1:
        cdef Waiter waiter = self.next_waiter()
        self.unfinished += 1
        if waiter is None:
            self.items.append(item)
        else:
            waiter.done(item)
        return 0

    cdef int admit(self) except -1:
        """An item was taken: let the first who waits to put do it, if there is room.

        There is none where an item has been put back.
        """
        cdef Waiter waiter
        while self.putting and len(self.items) < self.maxsize:
            waiter = self.putting.popleft()
            item, waiter.item = waiter.item, None
            waiter.done(None)
            return self.add(item)
        return 0

    cdef int expire(self, Waiter waiter) except -1:
        if waiter.finished:
            return 0
        if waiter.puts:
            self.putting.remove(waiter)
            waiter.fail(queue.Full())
        else:
            self.pass_over(waiter)
            waiter.fail(queue.Empty())
        return 0

    cdef int cancel(self, Waiter waiter) except -1:
        if waiter.finished:
            return 0
        if waiter in self.joining:
            self.joining.remove(waiter)
        elif waiter.puts:
            self.putting.remove(waiter)
        else:
            self.pass_over(waiter)
        return waiter.abandon()

    cdef int interrupted(self, Waiter waiter) except -1:
        cdef Waiter other
        if (waiter.method == "get" or waiter.method == "get_nowait") and not waiter.failed:
            other = self.next_waiter()
            if other is None:
                self.items.appendleft(waiter.value)
            else:
                other.done(waiter.value)
        return 0

    def _put(self, Waiter waiter, item, block=True, timeout=None):
        if self.is_shutdown:
            waiter.fail(ShutDown())
        elif block and timeout is not None and timeout < 0 and self.maxsize > 0:
            raise ValueError("'timeout' must be a non-negative number")
        elif self.maxsize <= 0 or len(self.items) < self.maxsize:
            self.add(item)
            waiter.done(None)
        elif not block:
            waiter.fail(queue.Full())
        else:
            if timeout is not None:
                waiter.deadline = deadline_of(timeout)
            waiter.at = self
            waiter.item = item
            waiter.puts = True
            self.putting.append(waiter)

    def _get(self, Waiter waiter, block=True, timeout=None):
        if block and timeout is not None and timeout < 0 and not (
            self.is_shutdown and not self.items
        ):
            raise ValueError("'timeout' must be a non-negative number")
        if self.items:
            item = self.items.popleft()
            self.admit()
            waiter.done(item)
        elif self.is_shutdown:
            waiter.fail(ShutDown())
        elif not block:
            waiter.fail(queue.Empty())
        else:
            self.park(waiter, timeout)

    def _get_nowait(self, Waiter waiter):
        self._get(waiter, False)

    def _join(self, Waiter waiter):
        if self.unfinished == 0:
            waiter.done(None)
        else:
            waiter.at = self
            self.joining.append(waiter)

    cdef int all_done(self) except -1:
        cdef Waiter waiter
        joining, self.joining = self.joining, []
        for waiter in joining:
            waiter.done(None)
        return 0

    def put(self, item, block=True, timeout=None):
        return self.block("put", (item, block, timeout))

    def get(self, block=True, timeout=None):
        return self.block("get", (block, timeout))

    def put_nowait(self, item):
        return self.block("put", (item, False))

    def get_nowait(self):
        return self.block("get_nowait", ())

    def join(self):
        return self.block("join", ())

    def task_done(self):
        if self.unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished -= 1
        if self.unfinished == 0:
            self.all_done()

    def qsize(self):
        return len(self.items)

    def empty(self):
        return not self.items

    def full(self):
        return 0 < self.maxsize <= len(self.items)


if ShutDown is None:
    class Queue(_BaseQueue):
        """As `queue.Queue`."""
else:
    class Queue(_BaseQueue):
        """As `queue.Queue`."""

        def shutdown(self, immediate=False):
            _shut_down(self, immediate)


def _shut_down(_BaseQueue q, bint immediate):
    """As `queue.Queue.shutdown`, which CPython has since 3.13."""
    cdef Waiter waiter
    q.is_shutdown = True
    if immediate:
        while q.items:
            q.items.popleft()
            if q.unfinished > 0:
                q.unfinished -= 1
        if q.unfinished == 0:
            q.all_done()
    for waiter in list(q.putting):
        waiter.fail(ShutDown())
    q.putting.clear()
    while True:
        waiter = q.next_waiter()
        if waiter is None:
            break
        waiter.fail(ShutDown())
