"""Primitives whose waiters are records, not threads."""

from fastmgr.memory.atomics cimport uint64_t
from fastmgr.memory.arena cimport Celled

cdef double FOREVER

cdef class Waiter

cdef class Owner:
    cdef readonly uint64_t number    # in a slot (see memory/atomics.h)
    cdef readonly Waiter waiter      # of the call that waits; None: no call does

    cdef void belong(self, uint64_t session, uint64_t thread) noexcept
    cdef bint is_there(self) noexcept
    cdef void serve_no_more(self) noexcept

cdef class Waiter:
    cdef readonly Owner owner        # who waits: a connection, or a thread in here
    cdef object sink                 # called with this waiter when it is finished; None: `gate`
    cdef object gate                 # a locked lock that the waiting thread sleeps on
    cdef Primitive at                # where it is queued
    cdef readonly double deadline    # on the monotonic clock; infinite for none
    cdef readonly bint finished
    cdef readonly bint failed        # `value` is the exception to raise
    cdef public object value
    cdef bint gone                   # timed out or dead: its queue is to skip it
    cdef object item                 # what a put brings
    cdef object method               # of a thread that waits: the method it is in
    cdef Py_ssize_t depth            # what a Condition's waiter takes the lock back to
    cdef bint again                  # its sleep is over, and it waits for the lock
    cdef bint notified               # that is why; another is to be told where it does not go on
    cdef bint cut_off                # of its pipeline the rest will never come
    cdef bint puts                   # it waits for room in a queue

    cdef bint is_there(self)
    cdef int done(self, object value) except -1
    cdef int fail(self, object error) except -1
    cdef int finish_unanswered(self) except -1

cdef class Primitive(Celled):
    cdef object waiting              # deque of Waiter, first come first served
    cdef Py_ssize_t dead             # of them are gone

    cdef object begin(self, Waiter waiter, object name, object args, object kwds)
    cdef bint blocks(self, object name)
    cdef str state(self)
    cdef int park(self, Waiter waiter, object queue, object timeout) except -1
    cdef Waiter next_waiter(self)
    cdef int unqueue(self, Waiter waiter) except -1
    cdef int expire(self, Waiter waiter) except -1
    cdef int cancel(self, Waiter waiter) except -1
    cdef int hand_on_all_of(self, uint64_t session) except -1
    cdef int take_back(self, Waiter waiter) except -1
    cdef int leave(self, Waiter waiter) except -1
    cdef int finish_dead(self, Waiter waiter) except -1
    cdef object block(self, object name, tuple args)
    cdef object wait_here(self, Waiter waiter, object name, object args, object kwds)

cdef Owner current_owner()
cdef str shown_module(object obj)
cdef double deadline_of(object timeout) except? -1
cdef object counted(object number)
