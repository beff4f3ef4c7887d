"""Where the items of a queue are."""

from fastmgr.kinds.rings cimport Ring
from fastmgr.kinds.waits cimport Primitive
from fastmgr.memory.atomics cimport uint64_t

cdef class Store(Primitive):
    cdef object items           # deque
    cdef object front           # deque of items, before those of the ring
    cdef Ring ring              # None: all items are in `items`
    cdef list old               # (cell, when) of each ring that has ended
    cdef Py_ssize_t unfinished  # tasks; with a ring those that its state does not count yet

    cdef uint64_t flags(self) except? 0
    cdef int balance(self) except -1
    cdef Py_ssize_t size(self) except -1
    cdef Ring enter(self)
    cdef object take_first(self)
    cdef list take_some(self, Py_ssize_t most)
    cdef int give_back(self, object item) except -1
    cdef Py_ssize_t size_in(self, Ring ring) except -1
    cdef int come_home(self, Ring ring) except -1
    cdef bint task_is_done(self) except -1
    cdef int drop_all(self) except -1
