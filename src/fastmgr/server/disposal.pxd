"""Dropping objects on workers, where a destructor may be a user's, or take long."""

from fastmgr.server.table cimport Entry

cdef class Disposal:
    cdef object workers
    cdef list doomed              # what a worker drops once the loop's turn is over
    cdef readonly int disposing   # threads that are dropping objects this moment

    cdef int drop(self, list dead) except -1
    cdef int drop_elsewhere(self, list dead) except -1
    cdef int doom(self, object value) except -1
    cdef int turn(self) except -1

cdef bint is_hard_to_drop(Entry entry) except -1
cdef bint is_plain(object value) noexcept
