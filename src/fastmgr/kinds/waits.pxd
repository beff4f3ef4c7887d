"""Primitives whose waiters are records, not threads."""

cimport cython

from fastmgr.link.system cimport int64_t
from fastmgr.memory.arena cimport Celled
from fastmgr.memory.atomics cimport uint64_t

# What `blocks` says: the call has to be made by a thread that may wait for a client's next step.
cdef enum:
    BUSY = 2

cdef class Waiter

cdef class Owner:
    cdef readonly uint64_t number    # in a slot (memory/atomics.h)
    cdef readonly Waiter waiter      # of the call that waits on a thread; None: no call does
    cdef int64_t waited              # nanoseconds, in calls that have ended

    cdef void belong(self, uint64_t session, uint64_t thread) noexcept
    cdef bint is_there(self) noexcept
    cdef void serve_no_more(self) noexcept

cdef class Waiter:
    cdef readonly Owner owner        # the connection that waits, or a thread of this process
    cdef object sink                 # called with this waiter when it is finished; None: `gate`
    cdef object gate                 # a locked lock on which the waiting thread sleeps
    cdef Primitive at                # the primitive in whose queue the waiter is
    cdef readonly double deadline    # on the monotonic clock; infinite for none
    cdef int64_t since               # when it was queued, in nanoseconds of that clock
    cdef readonly bint finished
    cdef readonly bint failed        # `value` is the exception to raise; None: unanswered
    cdef public object value
    cdef bint gone                   # it has timed out or is dead: its queue skips it
    cdef object item                 # what a put brings, or where a get_many has its items
    cdef Py_ssize_t most             # items of a put_many or get_many, 0 of other calls
    cdef object method               # of a thread that waits: the method it is in
    cdef Py_ssize_t depth            # the depth at which a Condition's waiter owned the lock
    cdef bint again                  # its sleep at a Condition is over, and it waits for the lock
    cdef bint notified               # by a notification, which another gets where it does not go on
    cdef bint cut_off                # the rest of its pipeline will never come
    cdef bint puts                   # it puts into a queue

    cdef bint is_there(self)
    cdef void note_end(self) noexcept
    cdef int done(self, object value) except -1
    cdef int fail(self, object error) except -1
    cdef int finish_unanswered(self) except -1

cdef class Primitive(Celled):
    cdef object waiting              # deque of Waiter, first come first served
    cdef Py_ssize_t dead             # how many of them are gone
    cdef int64_t waited              # nanoseconds, in calls that have ended

    cdef object begin(self, Waiter waiter, object name, object args, object kwds)
    cdef int blocks(self, object name)
    cdef str state(self)
    cdef int park(self, Waiter waiter, object queue, object timeout) except -1
    cdef Waiter next_waiter(self)
    cdef int unqueue(self, Waiter waiter) except -1
    cdef int expire(self, Waiter waiter) except -1
    cdef int cancel(self, Waiter waiter) except -1
    cdef int hand_on_all_of(self, uint64_t session) except -1
    cdef int take_back(self, Waiter waiter) except -1
    cdef int leave(self, Waiter waiter) except -1
    cdef list waiters(self)
    cdef list holders(self)
    cdef int finish_dead(self, Waiter waiter) except -1
    cdef object block(self, object name, tuple args)
    cdef object wait_here(self, Waiter waiter, object name, object args, object kwds)

cdef class Slots(Primitive):
    cdef size_t slots
    cdef Py_ssize_t returned         # given back because of deaths, and released by nobody since
    # To whom the server gave the first slot last, when, and how it was then (see `note_grant`).
    cdef uint64_t granted_to
    cdef int64_t granted_at
    cdef bint granted_alone, granted_contended

    @cython.final
    cdef inline uint64_t *slot(self, size_t i) noexcept:
        return <uint64_t *>self.cell.at + i

    cdef int make_slots(self, size_t slots) except -1
    cdef void note_grant(self, size_t i, uint64_t owner) noexcept
    cdef int64_t held_since(self, size_t i, uint64_t holder) noexcept
    cdef bint take_any(self, uint64_t owner, bint wanted) noexcept
    cdef bint hand_on(self, size_t i, uint64_t holder, uint64_t died) except -1
    cdef int prepare(self, Waiter waiter) except -1

cdef Owner current_owner()
cdef list still_waiting(object queue)
cdef str shown_module(object obj)
cdef object counted(object number)
