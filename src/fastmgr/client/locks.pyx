# cython: auto_pickle=False
"""Proxies of locks, semaphores and events that work on the cell themselves; see `client.proxy`."""

cimport cython

from fastmgr.client.limits cimport end_of_calls, limits
from fastmgr.client.proxy cimport CellCore
from fastmgr.kinds.slots cimport (
    free_rlock, free_slot, holder_of, owner_died, take_rlock, take_slot,
)
from fastmgr.memory.atomics cimport fm_load, fm_owner_here, fm_set_owner_here, uint64_t
from fastmgr.memory.arena cimport KIND_EVENT, KIND_LOCK, KIND_RLOCK, KIND_SEMAPHORE, View

import threading

from fastmgr.client.limits import GRACE, unlimited
from fastmgr.stock.dialect import LockLost, ServerRestarted

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef double TIMEOUT_MAX = threading.TIMEOUT_MAX


cdef class EventCore(CellCore):
    """The compiled part of `EventProxy`."""

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        return kind == KIND_EVENT

    def is_set(self):
        """Whether the event is set."""
        if self.at_hand():
            return fm_load(<uint64_t *>self.cell) != 0
        return self._callmethod("is_set")


cdef bint is_plain_timeout(timeout) except -1:
    """Whether every primitive accepts the timeout; which accepts others, the server knows."""
    return (type(timeout) is int or type(timeout) is float) and 0 <= timeout <= TIMEOUT_MAX


cdef class LockCore(CellCore):
    """The compiled part of `AcquirerProxy`.

    A slot that is free, or that nobody waits for, changes hands by an atomic step; where
    somebody waits the slot says so, and the server hands it on in order.
    """

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        return KIND_LOCK <= kind <= KIND_SEMAPHORE

    @cython.final
    cdef bint take(self) except -1:
        """Take a free slot by a step of this process; False: the server is to be asked."""
        cdef uint64_t owner = self.owner_here()
        cdef uint64_t *slot = <uint64_t *>self.cell     # `owner_here` may have found another
        cdef bint taken = False
        cdef size_t i
        if owner == 0:
            return False
        if self.kind == KIND_LOCK:
            taken = take_slot(slot, owner)
        elif self.kind == KIND_RLOCK:
            taken = take_rlock(slot, owner)
        else:
            for i in range(self.size // sizeof(uint64_t)):
                taken = take_slot(slot + i, owner)
                if taken:
                    break
        if taken:
            self._session().took()
        return taken

    @cython.final
    cdef object ask_to_take(self, tuple args):
        taken = self._callmethod("acquire", args)
        if taken:
            self._session().took()
        return taken

    @cython.final
    cdef bint free(self) except -1:
        """Free a slot that is not contended; False: the server is to be asked."""
        # But for an RLock the process counts, and not its thread.
        cdef uint64_t owner = (
            self.owner_here() if self.kind == KIND_RLOCK else (<View>self.view).owner)
        cdef uint64_t *slot = <uint64_t *>self.cell
        cdef size_t i
        if owner == 0:
            return False
        if self.kind == KIND_LOCK:
            return free_slot(slot, owner)
        if self.kind == KIND_RLOCK:
            return free_rlock(slot, owner)
        for i in range(self.size // sizeof(uint64_t)):
            if free_slot(slot + i, owner):
                return True
        return False

    @cython.final
    cdef int give_back(self, tuple args) except -1:
        """Free it, also where the time is over that a block has for its calls."""
        if limits and end_of_calls() != 0.0:
            with unlimited(GRACE):
                return self.give_back_now(args)
        return self.give_back_now(args)

    @cython.final
    cdef int give_back_now(self, tuple args) except -1:
        if args or not (self.at_hand() and self.free()):
            try:
                self._callmethod("release", args)
            except ServerRestarted as error:
                raise LockLost(f"the lock went with the server that had it: {error}") from None
        self._session().gave(min(args[0], PY_SSIZE_T_MAX) if args else 1)
        return 0

    @cython.final
    cdef inline uint64_t owner_here(self) except? 0:
        """The number that this thread has in a slot; 0 if the cell is not at hand any more."""
        cdef View view = self.view
        cdef uint64_t owner = fm_owner_here(view.serial)
        if owner != 0:
            return owner            # nothing has run since the cell was found to be at hand
        while True:
            owner = self.this_thread()
            if not self.ready():
                return 0
            if self.view is view:
                return owner
            view = self.view    # a thread has met a new server: there we have another number

    @cython.final
    cdef uint64_t this_thread(self) except 0:
        cdef View view = self.view      # another may take its place meanwhile
        cdef uint64_t owner = fm_owner_here(view.serial)
        if owner == 0:
            owner = view.owner | self._session().thread_number()
            fm_set_owner_here(view.serial, owner)
        return owner

    def acquire(self, blocking=True, timeout=None):
        """Take the lock, or one of the permits, and return whether that was done.

        Parameters
        ----------
        blocking : bool
            Whether to wait for it.
        timeout : float, optional
            How long to wait, in seconds.
        """
        if (
            type(blocking) is bool
            and (timeout is None or blocking and is_plain_timeout(timeout)) and self.at_hand()
        ):
            if self.take():
                return True
            if not blocking and self.kind != KIND_SEMAPHORE:
                return False
        return self.ask_to_take((blocking,) if timeout is None else (blocking, timeout))

    def release(self, n=None):
        """Give it back; of a semaphore `n` permits, if that is given."""
        self.give_back(() if n is None else (n,))

    def locked(self):
        """Whether it is held, or all of the permits are."""
        if self.at_hand() and self.kind != KIND_SEMAPHORE:
            return holder_of(<uint64_t *>self.cell) != 0
        return self._callmethod("locked")

    def __enter__(self):
        return self.at_hand() and self.take() or self.ask_to_take(())

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.give_back(())

    @property
    def owner_died(self):
        """Whether a process was killed while it held this, and nobody has said `consistent` since.

        What a lock guards may then be half changed; the next holder can look.
        """
        cdef size_t i
        if not self.at_hand():
            return self._callmethod("owner_died")
        for i in range(self.size // sizeof(uint64_t) if self.kind == KIND_SEMAPHORE else 1):
            if owner_died(<uint64_t *>self.cell + i):
                return True
        return False

    def consistent(self):
        """Say that what the lock guards is in order: `owner_died` is false from here on.

        From then on a release by a party that holds nothing is not taken for that of the dead.
        """
        self._callmethod("consistent")
