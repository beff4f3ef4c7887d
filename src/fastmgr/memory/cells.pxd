"""Cells: the memory of shared objects."""

from fastmgr.memory.arena cimport Arena
from fastmgr.memory.segments cimport Segment

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
