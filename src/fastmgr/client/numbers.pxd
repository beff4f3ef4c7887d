"""Counters in a row, on which a client works by itself."""

cimport cython

from fastmgr.client.proxy cimport CellCore
from fastmgr.kinds.words cimport part_with, words_of
from fastmgr.memory.arena cimport Cell
from fastmgr.memory.atomics cimport uint64_t

cdef class CountersCore(CellCore):
    cdef tuple names
    cdef dict indices
    cdef Py_ssize_t length          # of all
    cdef list parts                 # the cells of those that are not in `cell`
    cdef Py_ssize_t located         # how often: each time the names may have changed

    @cython.final
    cdef inline uint64_t *word(self, Py_ssize_t i) noexcept:
        """The word of a counter; the row must be `ready`, and `i` below `length`."""
        cdef Cell part
        if i < words_of(self.size):
            return <uint64_t *>self.cell + i
        i -= words_of(self.size)
        part = part_with(self.parts, &i)
        return <uint64_t *>part.at + i

    cdef uint64_t *at(self, key) except? NULL
    cdef bint whole_at_hand(self) except -1
