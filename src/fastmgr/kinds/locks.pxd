"""What can be held: the primitives whose cells are slots."""

cimport cython

from fastmgr.kinds.waits cimport Primitive, Waiter
from fastmgr.memory.atomics cimport uint64_t

cdef class Slots(Primitive):
    cdef size_t slots
    cdef Py_ssize_t returned    # given back because of deaths, and not released by anybody since

    @cython.final
    cdef inline uint64_t *slot(self, size_t i) noexcept:
        return <uint64_t *>self.cell.at + i

    cdef int make_slots(self, size_t slots) except -1
    cdef bint take_any(self, uint64_t owner, bint wanted) noexcept
    cdef bint hand_on(self, size_t i, uint64_t holder, uint64_t died) except -1
    cdef int prepare(self, Waiter waiter) except -1
