"""The server's arena: which segments there are, and what lies where in them."""

from libc.stdint cimport uint64_t

from fastmgr.memory.segments cimport Segment, fm_lifeline

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
