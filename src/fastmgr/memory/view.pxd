"""What a client's process has mapped of a server's arena."""

cimport cython

from fastmgr.memory.atomics cimport THREAD_BITS, uint32_t, uint64_t
from fastmgr.memory.segments cimport Segment, fm_growths, fm_serves


@cython.final
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

    cdef inline bint serves(self) noexcept:
        """Whether the cells still are this process's to work on; `control` must be mapped."""
        return self.usable and fm_serves(self.alive, self.entry, self.owner >> THREAD_BITS)

    cdef inline uint32_t growths(self) noexcept:
        """How often a row of counters has grown, as far as the server has said."""
        return 0 if self.alive is NULL else fm_growths(self.alive)

    cdef int look_at(self, Segment control) except -1
    cdef int keep(self, Segment segment) except -1
