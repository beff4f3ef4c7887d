"""What a client's process has mapped of a server's arena."""

from libc.stdint cimport uint32_t, uint64_t

from fastmgr.memory.segments cimport Segment

cdef class View:
    cdef readonly object instance    # of which server
    cdef readonly uint64_t owner     # this process to it, as the owner of a slot
    cdef size_t place                # of the session's number in `control`
    cdef const uint64_t *entry       # the same; NULL before that is mapped
    cdef readonly uint64_t serial    # of this view, among all of the process
    cdef public bint usable          # the session it belongs to still is what it was
    cdef public bint none            # there is no arena to be had
    cdef Segment control
    cdef const uint32_t *alive       # in `control`; NULL before that is mapped
    cdef dict shared                 # number -> Segment
    cdef object large                # number -> Segment, weak: kept by the proxies

    cdef bint serves(self) noexcept
    cdef int look_at(self, Segment control) except -1
    cdef int keep(self, Segment segment) except -1
