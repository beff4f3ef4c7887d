"""The server's part of a ring."""

from fastmgr.kinds.ring cimport Turn
from fastmgr.memory.arena cimport Arena, Cell
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.wire.writer cimport Writer

cdef class Batch:
    cdef Writer records         # of each item its size, in a word, and its bytes
    cdef list items

cdef class Ring:
    cdef readonly Cell cell
    cdef readonly bint gone     # clients do not use it any more, and what `turn` says holds
    cdef bint loses             # items were lost in this turn, of which `leave` tells
    cdef Turn turn              # the server's, while it has the slot
    cdef uint64_t capacity
    cdef unsigned long loop     # the thread that must not wait long

    cdef bint is_busy(self) noexcept
    cdef int enter(self) except -1
    cdef int leave(self, uint64_t flags) except -1
    cdef int end_of(self, uint64_t session) except -1
    cdef Py_ssize_t count(self) noexcept
    cdef int await_turn(self) except -1
    cdef void end(self) noexcept
    cdef int spoil(self, object why) except -1
    cdef Py_ssize_t clear(self) noexcept
    cdef char *pop(self, uint64_t *size) except? NULL
    cdef object read(self, char *data, uint64_t size)
    cdef bint wants(self) noexcept
    cdef Batch encode(self, object items)
    cdef Py_ssize_t push(self, Batch batch, object items) except -1

cdef object NOTHING
