# cython: auto_pickle=False
"""Proxies of locks, semaphores and events that work on the cell themselves; see `client.cells`."""

from fastmgr.client.cells cimport CellCore
from fastmgr.memory.atomics cimport (
    CONTENDED, OWNER, OWNER_DIED, THREAD_BITS, fm_load, fm_owner_here, fm_replace,
    fm_set_owner_here, fm_store, uint64_t,
)
from fastmgr.memory.cells cimport KIND_EVENT, KIND_LOCK, KIND_RLOCK, KIND_SEMAPHORE
from fastmgr.memory.view cimport View

import threading

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
    """Whether nobody can object to it; the server knows who objects to what."""
    return (type(timeout) is int or type(timeout) is float) and 0 <= timeout <= TIMEOUT_MAX


cdef class LockCore(CellCore):
    """The compiled part of `AcquirerProxy`.

    A slot that is free, or that nobody waits for, changes hands by an atomic step; where
    somebody waits the slot says so, and the server hands it on in order.
    """

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        return KIND_LOCK <= kind <= KIND_SEMAPHORE

    cdef bint take(self) except -1:
        """Take what is free."""
        cdef uint64_t *slot
        cdef uint64_t word, owner
        cdef size_t i
        owner = self.owner_here()
        if owner == 0:
            return False
        slot = <uint64_t *>self.cell
        if self.kind == KIND_SEMAPHORE:
            for i in range(self.size // sizeof(uint64_t)):
                word = fm_load(slot + i)
                while word & OWNER == 0:
                    if fm_replace(slot + i, &word, word | owner):
                        return True
            return False
        word = fm_load(slot)
        while word & OWNER == 0:
            if fm_replace(slot, &word, word | owner):
                if self.kind == KIND_RLOCK:
                    fm_store(slot + 1, 1)
                return True
        if self.kind == KIND_RLOCK and word & OWNER == owner:
            fm_store(slot + 1, fm_load(slot + 1) + 1)
            return True
        return False

    cdef bint free(self) except -1:
        """Give back what nobody waits for; what is not ours to give back is the server's matter."""
        cdef uint64_t *slot
        cdef uint64_t word, owner
        cdef size_t i
        owner = self.owner_here()
        if owner == 0:
            return False
        slot = <uint64_t *>self.cell
        if self.kind == KIND_SEMAPHORE:
            for i in range(self.size // sizeof(uint64_t)):
                word = fm_load(slot + i)
                if (
                    (word & OWNER) >> THREAD_BITS == owner >> THREAD_BITS
                    and not word & CONTENDED and fm_replace(slot + i, &word, word & OWNER_DIED)
                ):
                    return True
            return False
        word = fm_load(slot)
        if word & OWNER == 0:
            return False
        if self.kind == KIND_RLOCK:
            if word & OWNER != owner:
                return False
            if fm_load(slot + 1) > 1:
                fm_store(slot + 1, fm_load(slot + 1) - 1)
                return True
        elif (word & OWNER) >> THREAD_BITS != owner >> THREAD_BITS:
            return False    # another's, or one's whose death has given it back before
        return not word & CONTENDED and fm_replace(slot, &word, word & OWNER_DIED)

    cdef inline uint64_t owner_here(self) except? 0:
        """Who takes and gives back; 0 where the cell is not here any more."""
        cdef View view
        cdef uint64_t owner
        while True:
            view = self.view
            owner = self.this_thread() if self.kind == KIND_RLOCK else view.owner
            if not self.ready():
                return 0
            if self.view is view:
                return owner
            # A thread has met a new server meanwhile: there we have another name.

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
                self._session().took()
                return True
            if not blocking and self.kind != KIND_SEMAPHORE:
                return False
        taken = self._callmethod(
            "acquire", (blocking,) if timeout is None else (blocking, timeout))
        if taken:
            self._session().took()
        return taken

    def release(self, n=None):
        """Give it back; of a semaphore `n` permits, if that is given."""
        if n is not None:
            self._callmethod("release", (n,))
            for _ in range(min(n, self._session().taken)):
                self._session().gave()
            return
        if not (self.at_hand() and self.free()):
            self._callmethod("release")
        self._session().gave()

    def locked(self):
        """Whether it is held, or all of the permits are."""
        if self.at_hand() and self.kind != KIND_SEMAPHORE:
            return fm_load(<uint64_t *>self.cell) & OWNER != 0
        return self._callmethod("locked")

    def __enter__(self):
        taken = self.at_hand() and self.take() or self._callmethod("acquire")
        if taken:
            self._session().took()
        return taken

    def __exit__(self, exc_type, exc_val, exc_tb):
        if not (self.at_hand() and self.free()):
            self._callmethod("release")
        self._session().gave()

    @property
    def owner_died(self):
        """Whether a process was killed while it held this, and nobody has said `consistent` since.

        What a lock guards may then be half changed; whoever holds the lock can look.
        """
        cdef size_t i
        if not self.at_hand():
            return self._callmethod("owner_died")
        for i in range(self.size // sizeof(uint64_t) if self.kind == KIND_SEMAPHORE else 1):
            if fm_load(<uint64_t *>self.cell + i) & OWNER_DIED:
                return True
        return False

    def consistent(self):
        """Say that what the lock guards is in order: `owner_died` is false from here on.

        Nor is a release by who has not taken it any more one for the process that was killed.
        """
        self._callmethod("consistent")
