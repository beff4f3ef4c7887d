# cython: auto_pickle=False
"""Primitives whose waiters are records, not threads.

A call that must wait leaves a `Waiter` in a queue of the primitive, and its thread goes on to
other work.  The call that ends the wait finishes the record: then the loop sends the client's
reply, or, for a thread of this process, the gate opens on which the thread sleeps.  So ten thousand
waiting clients cost ten thousand records.  Waiters are served first come, first served; one whose
client has died is skipped, and takes nothing.

What a thread owns in `threading`, here a connection owns: a client's connection is its thread.
Meaning and errors are those of `threading` and `queue`.

Every step runs under the GIL and does not give it away in between: it allocates what it needs, and
changes the books after that.
"""

cimport cython

from fastmgr.kinds.slots cimport LOCAL
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.memory.arena cimport Celled

import threading
from collections import deque
from time import monotonic

cdef double FOREVER = float("inf")
cdef double TIMEOUT_MAX = threading.TIMEOUT_MAX

# The owner for whom the calling thread acts: `.owner` is a connection while its call is served,
# `.thread` the thread's own.
here = threading.local()
cdef uint64_t owners_without_session = 0


cdef class Owner:
    """A connection or a thread of this process: it can hold locks and permits."""

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
        """Whether the waiter still waits, and its owner can be given something."""
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
            self.sink(self)     # the call has left its thread
        return 0

    cdef int finish_unanswered(self) except -1:
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
            # Our method takes one argument more, and has another name.
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
        """A session's process has died: hand on what it held."""
        return 0

    cdef int take_back(self, Waiter waiter) except -1:
        """Take back what the waiter was given: its thread was interrupted before it had that."""
        return 0

    cdef int leave(self, Waiter waiter) except -1:
        """The waiting thread leaves the call by an exception."""
        return self.take_back(waiter) if waiter.finished else self.cancel(waiter)

    # -- for the primitives ---------------------------------------------------

    cdef str state(self):
        """What there is to see of it from outside."""
        raise NotImplementedError

    def __repr__(self):
        return f"<{shown_module(self)}.{type(self).__name__} at {id(self):#x}: {self.state()}>"

    cdef int park(self, Waiter waiter, object queue, object timeout) except -1:
        """Put a waiter into a queue of this primitive; without a timeout (None) for ever."""
        cdef double deadline = FOREVER if timeout is None else deadline_of(timeout)
        assert waiter.at is None and not waiter.finished    # in one queue at most
        waiter.at = self
        waiter.deadline = deadline
        queue.append(waiter)
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
                self.finish_dead(waiter)
        return None

    cdef int finish_dead(self, Waiter waiter) except -1:
        """The client of a waiter that has left its queue is dead: end the call."""
        return waiter.finish_unanswered()

    cdef int unqueue(self, Waiter waiter) except -1:
        """Mark a waiter as gone from the queue, which is cleaned when most are."""
        waiter.gone = True
        self.dead += 1
        if self.dead > 16 and self.dead > len(self.waiting) // 2:
            self.waiting = deque([w for w in self.waiting if not (<Waiter>w).gone])
            self.dead = 0
        return 0

    cdef object block(self, object name, tuple args):
        """Do a blocking method on the calling thread, for itself or the connection it serves."""
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
                self.leave(waiter)
                raise
            finally:
                waiter.owner.waiter = None
        if waiter.failed:
            if waiter.value is None:        # unanswered
                waiter.owner.serve_no_more()
                raise EOFError("the client that waited is gone")
            raise waiter.value
        return waiter.value


cdef str shown_module(object obj):
    """What a representation calls a type's module: which of ours it is says nothing to users."""
    module = type(obj).__module__
    return "fastmgr" if module.startswith("fastmgr.") else module


cdef double deadline_of(object timeout) except? -1:
    """When a wait of so many seconds that begins now is over."""
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("timeout=nan: no number of seconds")
    return <double>monotonic() + seconds


cdef object counted(object number):
    """A number of permits or parties; `threading` takes a float, too."""
    if number != int(number):
        raise ValueError(f"{number!r}: a whole number is needed")
    return int(number)
