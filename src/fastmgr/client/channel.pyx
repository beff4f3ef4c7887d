# cython: auto_pickle=False
"""One thread's way to a server: a connection, and the lock that is held during a call."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK, PY_LOCK_ACQUIRED, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock,
    PyThread_free_lock, PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock,
)

from fastmgr.link.system cimport FM_SIGNALS_MS

from fastmgr.link.sockets import is_loss

cdef extern from "Python.h" nogil:
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int intr)


class StaleConnection(Exception):
    """The server had closed the connection before the request could be sent whole."""


cdef class Channel:
    """How one thread reaches one server."""

    def __cinit__(self, *args, **kwds):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError("no memory for a lock")
        self.usable = True

    def __dealloc__(self):
        if self.lock is not NULL:
            PyThread_free_lock(self.lock)

    cdef void renew_lock(self) noexcept:
        """In a forked child: the lock may have been held by a thread that is not here.

        It is left to leak, for freeing a held lock is undefined.
        """
        self.lock = PyThread_allocate_lock()
        self.holder = 0

    cdef int hold(self) except -1:
        """Take the lock, without the GIL if it must be waited for."""
        cdef PyLockStatus status
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            while True:
                with nogil:
                    status = PyThread_acquire_lock_timed(self.lock, FM_SIGNALS_MS * 1000, 1)
                if status == PY_LOCK_ACQUIRED:
                    break
                PyErr_CheckSignals()
        self.holder = PyThread_get_thread_ident()
        return 0

    cdef bint hold_now(self) noexcept:
        """Take the lock if it is free."""
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            return False
        self.holder = PyThread_get_thread_ident()
        return True

    cdef void let_go(self) noexcept:
        self.holder = 0
        PyThread_release_lock(self.lock)

    cdef int end(self, error) except -1:
        """The channel is out of step, never to be used again: lost, or interrupted in a call."""
        self.usable = False
        self.interrupted = not isinstance(error, StaleConnection) and not is_loss(error)
        return 0

    cpdef object close(self):
        """Close the connection in order."""
        raise NotImplementedError

    cpdef object abandon(self):
        """Close this process's copy of the connection: it is another's."""
        raise NotImplementedError
