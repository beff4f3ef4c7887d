# cython: auto_pickle=False
"""Primitives whose waiters are records, not threads.

A call that must wait leaves a `Waiter` in a queue of the primitive, and the server's thread goes on
to other work.  The call that ends the wait finishes this record: then the loop sends the reply, or
the gate opens on which a thread of this process sleeps.  So ten thousand waiting clients cost ten
thousand records.  A primitive serves its waiters first come, first served.  It skips a waiter whose
client has died, and gives it nothing.

What a thread owns in `threading`, a connection owns here: each thread of a client has its own.
Meaning and errors are those of `threading` and `queue`.

Every step holds the GIL from its first change of the books to its last: it allocates before that.
"""

cimport cython
from libc.math cimport INFINITY

from fastmgr.kinds.slots cimport (
    LOCAL, OWNER_DIED, clear_owner_died, hand_to, holder_of, is_contended, leave_free, owner_died,
    session_of, take_or_contend, take_slot,
)
from fastmgr.link.system cimport fm_now_ns
from fastmgr.memory.arena cimport Cell
from fastmgr.memory.atomics cimport THREAD_BITS

import threading
from collections import deque
from time import monotonic

cdef double TIMEOUT_MAX = threading.TIMEOUT_MAX

# For which owner the calling thread acts: `.owner` is the connection whose call the thread serves,
# `.thread` the thread itself.
here = threading.local()
cdef uint64_t owners_without_session = 0


cdef class Owner:
    """What can hold locks and permits: a connection, or a thread of this process."""

    def __cinit__(self, *args, **kwds):
        self.belong(0, 0)

    cdef void belong(self, uint64_t session, uint64_t thread) noexcept:
        """Be a thread of a session; without one (0) get a number of its own."""
        global owners_without_session
        if session:
            self.number = session << THREAD_BITS | thread
        else:
            owners_without_session += 1
            self.number = LOCAL | owners_without_session

    cdef bint is_there(self) noexcept:
        """Whether the owner can still be given something; a thread of this process always can."""
        return True

    cdef void serve_no_more(self) noexcept:
        """The owner's wait was cancelled: do nothing that the owner has asked for after it."""


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
        self.deadline = INFINITY

    cdef bint is_there(self):
        """Whether the waiter still waits, and its owner can be given something."""
        return not self.gone and self.owner.is_there()

    cdef void note_end(self) noexcept:
        """Count how long the call has waited; the waiter is about to be finished."""
        cdef int64_t waited
        if self.at is not None:
            waited = fm_now_ns() - self.since
            self.at.waited += waited
            self.owner.waited += waited

    cdef int done(self, object value) except -1:
        """Finish with a result, if nobody has finished the waiter before."""
        if self.finished:
            return 0
        self.note_end()
        self.finished = True
        self.value = value
        if self.gate is not None:
            self.gate.release()
        elif self.at is not None:
            self.sink(self)     # no thread is in the call any more
        return 0

    cdef int finish_unanswered(self) except -1:
        """Finish without a result: the client that waited is dead."""
        self.note_end()
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

    # -- for the server, which may call all but `begin` whatever has happened meanwhile -----

    cdef int blocks(self, object name):
        """Whether the method of that name may have to wait; BUSY where no call is for the loop."""
        return name == "acquire"

    cdef object begin(self, Waiter waiter, object name, object args, object kwds):
        """Start a blocking method; the waiter is finished, or queued."""
        try:
            return getattr(self, "_" + name)(waiter, *args, **kwds)
        except TypeError as error:
            # The message names our method, which takes one argument more than the user's.
            if not str(error).startswith(f"_{name}() "):
                raise
        given = ", ".join([*(type(arg).__name__ for arg in args), *(f"{key}=" for key in kwds)])
        raise TypeError(f"{type(self).__name__}.{name}() cannot be called with ({given})")

    cdef int expire(self, Waiter waiter) except -1:
        """The waiter's deadline has passed."""
        if not waiter.finished:
            self.unqueue(waiter)
            waiter.done(False)
        return 0

    cdef int cancel(self, Waiter waiter) except -1:
        """The waiter's client is dead."""
        if not waiter.finished:
            self.unqueue(waiter)
            waiter.finish_unanswered()
        return 0

    cdef int hand_on_all_of(self, uint64_t session) except -1:
        """Hand on what the process of a session held: it has died."""
        return 0

    cdef int take_back(self, Waiter waiter) except -1:
        """Take back what the waiter was given: an exception ended its call before it had that."""
        return 0

    cdef int leave(self, Waiter waiter) except -1:
        """End the wait of a thread that leaves the call by an exception."""
        return self.take_back(waiter) if waiter.finished else self.cancel(waiter)

    # -- for who looks at the server ------------------------------------------

    cdef list waiters(self):
        """Return those that wait now, in the order in which they are served."""
        return still_waiting(self.waiting)

    cdef list holders(self):
        """Return the number of each owner that holds this, and since when it does (0: unknown)."""
        return []

    # -- for the primitives ---------------------------------------------------

    cdef str state(self):
        """What `repr` says of it."""
        raise NotImplementedError

    def __repr__(self):
        return f"<{shown_module(self)}.{type(self).__name__} at {id(self):#x}: {self.state()}>"

    cdef int park(self, Waiter waiter, object queue, object timeout) except -1:
        """Put a waiter into a queue of this primitive; without a timeout (None) for ever."""
        cdef double deadline = INFINITY if timeout is None else deadline_of(timeout)
        assert waiter.at is None and not waiter.finished    # in one queue at most
        waiter.at = self
        waiter.since = fm_now_ns()
        waiter.deadline = deadline
        queue.append(waiter)
        return 0

    cdef Waiter next_waiter(self):
        """Take the first that still waits out of the queue; None if there is none."""
        cdef Waiter waiter
        while self.waiting:
            waiter = self.waiting.popleft()
            if waiter.is_there():
                return waiter
            if waiter.gone:
                self.dead -= 1
            else:
                self.finish_dead(waiter)
        return None

    cdef int finish_dead(self, Waiter waiter) except -1:
        """End the call of a waiter that has left its queue: its client is dead."""
        return waiter.finish_unanswered()

    cdef int unqueue(self, Waiter waiter) except -1:
        """Mark a waiter as gone from the queue, which is cleaned when most of them are."""
        waiter.gone = True
        self.dead += 1
        if self.dead > 16 and self.dead > len(self.waiting) // 2:
            self.waiting = deque([w for w in self.waiting if not (<Waiter>w).gone])
            self.dead = 0
        return 0

    cdef object block(self, object name, tuple args):
        """Call a blocking method on this thread, for itself or the connection that it serves."""
        return self.wait_here(Waiter(current_owner()), name, args, {})

    cdef object wait_here(self, Waiter waiter, object name, object args, object kwds):
        """Call a blocking method on this thread, for the waiter's owner."""
        waiter.method = name
        waiter.gate = threading.Lock()
        waiter.gate.acquire()
        self.begin(waiter, name, args, kwds)
        if not waiter.finished:
            waiter.owner.waiter = waiter    # so that the loop can cancel the wait of a client
            try:
                while not waiter.finished:
                    if waiter.deadline == INFINITY:
                        waiter.gate.acquire()
                    else:
                        left = waiter.deadline - <double>monotonic()
                        if left <= 0 or not waiter.gate.acquire(True, min(left, TIMEOUT_MAX)):
                            waiter.deadline = INFINITY   # a Condition's waits on, for the lock
                            waiter.at.expire(waiter)
            except BaseException:
                self.leave(waiter)
                raise
            finally:
                waiter.owner.waiter = None
        if waiter.failed:
            if waiter.value is None:
                waiter.owner.serve_no_more()
                raise EOFError("the client that waited is gone")
            raise waiter.value
        return waiter.value


cdef class Slots(Primitive):
    """A primitive that can be held: its cell has a slot for each owner that may hold it at once.

    Before the server queues a waiter it takes a slot, or marks all as contended: from then on no
    client changes a slot by itself.

    As in `threading`, a party that holds nothing here may release what another has taken.  If the
    other's death has given that back already (`returned`), the release changes nothing: it must not
    take from a third party, nor make a permit from nothing.
    """

    def __cinit__(self, *args, **kwds):
        self.make_slots(1)

    cdef int make_slots(self, size_t slots) except -1:
        self.slots = slots
        self.cell = Cell(slots * sizeof(uint64_t))
        return 0

    cdef list holders(self):
        cdef list found = []
        cdef uint64_t holder
        cdef size_t i
        for i in range(self.slots):
            holder = holder_of(self.slot(i))
            if holder:
                found.append((holder, self.held_since(i, holder)))
        return found

    cdef void note_grant(self, size_t i, uint64_t owner) noexcept:
        """Note when the server gives the first slot to an owner."""
        if i == 0:
            self.granted_to = owner
            self.granted_alone = self.cell.segment is None
            self.granted_contended = is_contended(self.slot(0))
            if self.granted_alone or self.granted_contended:
                self.granted_at = fm_now_ns()

    cdef int64_t held_since(self, size_t i, uint64_t holder) noexcept:
        """Since when a slot is held; 0 where that is unknown.

        A client may free and take a slot that it shares with the server, and that is not contended,
        without the server's knowledge.
        """
        if i > 0 or holder != self.granted_to:
            return 0
        if self.granted_alone and self.cell.segment is None:
            return self.granted_at
        if self.granted_contended and is_contended(self.slot(0)):
            return self.granted_at
        return 0

    cdef bint take_any(self, uint64_t owner, bint wanted) noexcept:
        """Take a free slot; if there is none, and the owner will wait (`wanted`), contend all."""
        cdef uint64_t *slot
        cdef size_t i
        for i in range(self.slots):
            slot = self.slot(i)
            if take_or_contend(slot, owner) if wanted else take_slot(slot, owner):
                self.note_grant(i, owner)
                return True
        return False

    cdef bint hand_on(self, size_t i, uint64_t holder, uint64_t died) except -1:
        """Give the slot to the first in the queue, or free it; False where `holder` has done so."""
        cdef uint64_t *slot = self.slot(i)
        cdef Waiter waiter
        if holder_of(slot) != holder:
            return False
        waiter = self.next_waiter()
        if waiter is None:
            if i == 0:
                self.granted_to = 0
            return leave_free(slot, holder, died)
        self.prepare(waiter)
        assert waiter.owner.number and not waiter.finished
        hand_to(slot, waiter.owner.number, died, len(self.waiting) > 0)
        self.note_grant(i, waiter.owner.number)
        waiter.done(waiter.value if waiter.again else True)
        return True

    cdef int prepare(self, Waiter waiter) except -1:
        """Prepare a slot that still is held for the waiter that will get it."""
        return 0

    cdef int hand_on_all_of(self, uint64_t session) except -1:
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
        """Say that what this guards is in order, and that nobody will release for the dead."""
        cdef size_t i
        self.returned = 0
        for i in range(self.slots):
            clear_owner_died(self.slot(i))

    def __enter__(self):
        return self.block("acquire", ())

    def __exit__(self, *exc_info):
        self.release()


cdef str shown_module(object obj):
    """How `repr` names a type's module: which of ours it is says nothing to users."""
    module = type(obj).__module__
    return "fastmgr" if module.startswith("fastmgr.") else module


cdef list still_waiting(object queue):
    """Those of a queue of waiters whose calls have not ended."""
    cdef Waiter waiter
    return [waiter for waiter in list(queue) if not waiter.gone and not waiter.finished]


cdef double deadline_of(object timeout) except? -1:
    """When a wait that begins now will have lasted so many seconds."""
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("timeout=nan: no number of seconds")
    return <double>monotonic() + seconds


cdef object counted(object number):
    """Return a number of permits or parties as an int; `threading` takes floats, too."""
    if number != int(number):
        raise ValueError(f"{number!r}: a whole number is needed")
    return int(number)
