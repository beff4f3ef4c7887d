"""One call that waits."""

cdef class Wait:
    cdef readonly object session
    cdef readonly bytes kind        # what the names of the functions begin with
    cdef readonly tuple keys        # of the functions
    cdef readonly bytes id          # the session's, when the call began
    cdef readonly bytes name        # of the waiter
    cdef public object deadline     # by the monotonic clock, or None; None once it is over, too
    cdef public object end_at       # the same, for ever
    cdef public object patience     # seconds for a server that is away to be there again
    cdef public bint answered       # it is known how the call ends: nothing is to be undone
    cdef public tuple looks_with    # what the functions that look get besides the waiter's name
    cdef bint undone

    cdef int prepare(self, object session, tuple keys, bytes kind) except -1
    cdef list request_for(self, bytes function)
    cdef object make(self, list request, object timeout)
    cdef object go(self, list request, object timeout)
    cpdef bint is_void(self) except -1

cdef class SeldomWait(Wait):
    pass

cpdef object give_back(object session, bytes key, list request, object number, list grant)
