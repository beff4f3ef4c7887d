"""The deadlines of parked calls."""

from fastmgr.kinds.waits cimport Waiter

cdef class Timers:
    cdef list heap                # of (deadline, serial, Waiter)
    cdef Py_ssize_t serial        # of the last timer that was set
    cdef double next              # the first deadline; infinite for none

    cdef bint set(self, Waiter waiter, Py_ssize_t conns) except -1
    cdef int expire(self, double now) except -1
