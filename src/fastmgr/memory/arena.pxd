"""An arena: the server's segments and what lies where in them; a client's view of them."""

cimport cython

from fastmgr.memory.atomics cimport THREAD_BITS, uint32_t, uint64_t
from fastmgr.memory.segments cimport Segment, fm_growths, fm_lifeline, fm_serves

cdef enum:
    LARGE = 256 * 1024           # a cell of that size lies among large ones, and is made there

# The arena of the server that runs in this process, or None.
cdef Arena home_here()

cdef class Arena:
    cdef readonly object segments    # number -> Segment, weak: the large go with their cell
    cdef list shared                 # the segments of small cells
    cdef list spacious               # those of large cells
    cdef int pid                     # the server: a forked child's copy is not to be written to
    cdef dict unused                 # size -> [(segment, offset)] of cells that were given back
    cdef int made                    # segments so far
    # Its first word says that the server lives; behind it are the numbers of the sessions.
    cdef Segment control
    cdef list vacant                 # entries of them, to be used again
    cdef size_t entries              # of them so far, with that of the server
    cdef fm_lifeline line
    cdef bint tied

    cdef Segment add(self, Segment segment)
    cdef size_t enter(self, uint64_t session) except? 0
    cdef int leave(self, size_t entry) except -1
    cdef tuple take(self, size_t size)
    cdef tuple take_pages(self, size_t size)
    cdef int give_back_pages(self, Segment segment, size_t offset, size_t size) except -1
    cdef int give_back(self, Segment segment, size_t offset, size_t size) except -1


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

# Bytes that take milliseconds to be copied, or given back.
cdef enum:
    HEAVY = 4 * 1024 * 1024

# What a cell is to its clients.
cdef enum Kind:
    KIND_NONE = 0
    KIND_LOCK = 1
    KIND_RLOCK = 2
    KIND_SEMAPHORE = 3
    KIND_EVENT = 4
    KIND_COUNTER = 5
    KIND_COUNTERS = 6
    KIND_VALUE = 7
    KIND_ARRAY = 8

cdef class Cell:
    cdef char *at                    # in `segment`, or owned
    cdef readonly size_t size
    cdef readonly Segment segment    # None: nobody else sees it
    cdef readonly size_t offset
    cdef Arena arena                 # takes it back; None: it stays where it is

    cpdef bint settle(self, Arena arena) except -1
    cdef bint place(self, Arena arena) except -1
    cdef int check(self) except -1

cdef class Celled:
    cdef Cell cell                   # None: there is nothing to share
    cdef int kind

    cdef bint settle(self, Arena arena) except -1
    cdef bint is_heavy(self, bint at_rest) except -1
    cdef size_t state_size(self) except? 0
    cdef bint fits(self, size_t size) except -1
    cdef int lie_in(self, Cell cell, bint fresh) except -1
    cdef object about(self)
