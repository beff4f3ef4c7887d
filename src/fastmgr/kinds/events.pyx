# cython: auto_pickle=False
"""Events and barriers: they let all their waiters go at once."""

from fastmgr.kinds.waits cimport Primitive, Waiter, counted
from fastmgr.memory.arena cimport KIND_EVENT, Cell
from fastmgr.memory.atomics cimport fm_store, uint64_t

import threading


cdef class Event(Primitive):
    """As `threading.Event`."""

    cdef bint flag          # clients read the copy in the cell

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_EVENT
        self.cell = Cell(sizeof(uint64_t))

    def __init__(self):
        """Refuse arguments, which `__cinit__` would let pass."""

    cdef str state(self):
        return "set" if self.flag else "unset"

    cdef int blocks(self, object name):
        return name == "wait"

    def _wait(self, Waiter waiter, timeout=None):
        if self.flag:
            waiter.done(True)
        elif timeout is not None and timeout <= 0:
            waiter.done(False)
        else:
            self.park(waiter, self.waiting, timeout)

    def wait(self, timeout=None):
        return self.block("wait", (timeout,))

    def is_set(self):
        return self.flag

    def set(self):
        cdef Waiter waiter
        self.flag = True
        fm_store(<uint64_t *>self.cell.at, 1)
        while (waiter := self.next_waiter()) is not None:
            waiter.done(True)

    def clear(self):
        self.flag = False
        fm_store(<uint64_t *>self.cell.at, 0)


cdef class Barrier(Primitive):
    """As `threading.Barrier` without an action."""

    cdef readonly Py_ssize_t parties
    cdef readonly bint broken
    cdef object timeout

    def __init__(self, parties, timeout=None):
        if parties < 1:
            raise ValueError("parties must be > 0")
        self.parties = counted(parties)
        self.timeout = timeout

    cdef str state(self):
        return "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"

    @property
    def n_waiting(self):
        return len(self.waiting) - self.dead

    cdef int blocks(self, object name):
        return name == "wait"

    cdef int break_up(self) except -1:
        cdef Waiter waiter
        while (waiter := self.next_waiter()) is not None:
            waiter.fail(threading.BrokenBarrierError())
        return 0

    cdef int expire(self, Waiter waiter) except -1:
        if not waiter.finished:
            self.broken = True
            self.break_up()
        return 0

    def _wait(self, Waiter waiter, timeout=None):
        cdef Waiter other
        cdef Py_ssize_t index = 0
        if self.broken:
            waiter.fail(threading.BrokenBarrierError())
        elif self.n_waiting + 1 < self.parties:
            self.park(waiter, self.waiting, self.timeout if timeout is None else timeout)
        else:
            while (other := self.next_waiter()) is not None:
                other.done(index)
                index += 1
            waiter.done(index)

    def wait(self, timeout=None):
        return self.block("wait", (timeout,))

    def reset(self):
        self.broken = False
        self.break_up()

    def abort(self):
        self.broken = True
        self.break_up()
