"""An arena: the server's segments, and the cells of shared objects in them; a client's view."""

cimport cython

from fastmgr.memory.atomics cimport THREAD_BITS, uint32_t, uint64_t
from fastmgr.memory.segments cimport Segment, fm_growths, fm_lifeline, fm_serves

cdef class Versions:
    cdef readonly Segment segment   # None before the first word
    cdef list vacant                # offsets of words that were given back
    cdef size_t used                # bytes of the segment
    cdef uint64_t last              # the version that was given last

    cdef Version new(self)
    cdef uint64_t next(self) noexcept


cdef class Version:
    cdef uint64_t *word             # in the segment of `home`
    cdef readonly size_t offset
    cdef Versions home
    cdef Py_ssize_t changing        # calls under way that may change the object
    cdef Py_ssize_t unread          # changes since a client last asked for the version
    cdef bint retired               # it is no object's any more

    cdef void begin(self) noexcept
    cdef void end(self) noexcept
    cdef void retire(self) noexcept

cdef class Arena:
    cdef readonly object segments    # number -> Segment, weak: those of large cells go with these
    cdef list shared                 # the segments of small cells
    cdef list spacious               # the segments of large cells
    cdef int pid                     # the server: a forked child must not write to its copy
    cdef dict unused                 # size -> [(segment, offset)] of cells that were given back
    cdef int made                    # how many segments there were
    # Its first word says that the server lives; the numbers of the sessions follow.
    cdef Segment control
    cdef list vacant                 # places of sessions that have ended, to be used again
    cdef size_t entries              # places so far, with that of the server
    cdef Versions versions           # of objects that clients read again and again
    cdef fm_lifeline line
    cdef bint tied
    cdef unsigned long thread        # that has opened it: the loop's
    cdef readonly size_t ring_size   # bytes for items that a queue's ring has; 0: no queue has one

    cdef Segment add(self, Segment segment)
    cdef size_t enter(self, uint64_t session) except? 0
    cdef int leave(self, size_t entry) except -1
    cdef Version new_version(self)
    cdef tuple take(self, size_t size)
    cdef int give_back(self, Segment segment, size_t offset, size_t size) except -1


@cython.final
cdef class View:
    cdef readonly object instance    # the server
    cdef readonly uint64_t owner     # what this process has in a slot that it holds
    cdef size_t place                # of the session's number in `control`
    cdef const uint64_t *entry       # the same; NULL before `control` is mapped
    cdef readonly uint64_t serial    # of this view, among all of the process
    cdef public bint usable          # the session it belongs to still is the same
    cdef public bint none            # this process can have no arena
    cdef Segment control
    cdef const uint32_t *alive       # in `control`; NULL before that is mapped
    cdef dict shared                 # number -> Segment
    cdef object large                # number -> Segment, weak: kept by the proxies

    cdef inline bint serves(self) noexcept:
        """Whether this process still may work on the cells; `control` must be mapped."""
        return self.usable and fm_serves(self.alive, self.entry, self.owner >> THREAD_BITS)

    cdef inline uint32_t growths(self) noexcept:
        """How often a row of counters has grown, as far as the server has said."""
        return 0 if self.alive is NULL else fm_growths(self.alive)

    cdef int look_at(self, Segment control) except -1
    cdef int keep(self, Segment segment) except -1

cdef enum:
    HEAVY = 4 * 1024 * 1024     # bytes that take milliseconds to be copied, or given back

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
    KIND_QUEUE = 10
    KIND_VERSION = 9    # no state: the word that says whether the object has changed

cdef class Cell:
    cdef char *at                    # in `segment`, or owned
    cdef readonly size_t size
    cdef readonly Segment segment    # None: nobody else sees the cell
    cdef readonly size_t offset
    cdef Arena arena                 # gets the memory back; None: the cell stays where it is

    cpdef bint settle(self, Arena arena) except -1
    cdef bint place(self, Arena arena) except -1
    cdef int check(self) except -1

cdef class Celled:
    cdef Cell cell                   # None: clients work on no state
    cdef int kind

    cdef bint settle(self, Arena arena) except -1
    cdef bint is_heavy(self, bint at_rest) except -1
    cdef size_t state_size(self) except? 0
    cdef bint fits(self, size_t size) except -1
    cdef int lie_in(self, Cell cell, bint fresh) except -1
    cdef object about(self)
