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

from fastmgr.kinds.slots cimport LOCAL
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.memory.cells cimport Celled

import threading
from collections import deque
from time import monotonic

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

    cdef int leave(self, Waiter waiter) except -1:
        """The waiting thread leaves the call by an exception."""
        return self.interrupted(waiter) if waiter.finished else self.cancel(waiter)

    # -- for the primitives ---------------------------------------------------

    cdef str state(self):
        """What there is to see of it from outside."""
        raise NotImplementedError

    def __repr__(self):
        return f"<{shown_module(self)}.{type(self).__name__} at {id(self):#x}: {self.state()}>"

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
                self.leave(waiter)
                raise
            finally:
                waiter.owner.waiter = None
        if waiter.failed:
            if waiter.value is None:        # abandoned
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
