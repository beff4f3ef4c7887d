"""One thread's way to a server."""

from cpython.pythread cimport PyThread_type_lock

cdef class Channel:
    cdef readonly bint usable        # by its thread, for another request
    cdef readonly bint interrupted   # a request was sent whose reply nobody has read
    cdef PyThread_type_lock lock     # owned; held while a frame is on its way
    cdef unsigned long holder        # the thread that holds it, or 0
    cdef unsigned long thread        # whose channel it is
    cdef void renew_lock(self) noexcept
    cdef int hold(self) except -1
    cdef bint hold_now(self) noexcept
    cdef void let_go(self) noexcept
    cdef int end(self, error) except -1
    cpdef object close(self)
    cpdef object abandon(self)
