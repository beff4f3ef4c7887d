# cython: auto_pickle=False
"""What the threads of a session have been granted: locks and permits, and what they have lost.

No signal's handler runs in the midst of a method: where one does not go on, its caller knows what
the books say.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from fastmgr.engines.valkey.connection cimport Connection

from itertools import count

from fastmgr.engines.valkey.errors import LockLost

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyThreadState_Get()
    unsigned long long PyThreadState_GetID(PyThreadState *state)

cdef enum:
    NAME_ROOM = 128     # bytes: a session's id and two numbers

cdef object numbers = count(1)
# The sessions that hold a lock: they live on though nothing else refers to them.
cdef set holding = set()


cdef char *put_number(char *end, unsigned long long number) noexcept:
    """Put a slash and a number before `end`; return where they begin."""
    while True:
        end -= 1
        end[0] = <char>(c"0" + number % 10)
        number //= 10
        if number == 0:
            break
    end -= 1
    end[0] = c"/"
    return end


cdef class Grants:
    """What the threads of one session have been granted."""

    def hold_nothing(self):
        """Begin anew, as in the child of a fork."""
        self._held = {}
        self._lost = {}
        self.permits = {}

    cdef bint is_begun(self) except -1:
        """Whether the one server sees the process; False for a cluster, whose nodes are many."""
        return self._connection is not None and (<Connection?>self._connection).usable

    # -- names --------------------------------------------------------------------

    cpdef object thread(self):
        """Return the calling thread's number as an owner: no later thread has the same."""
        return PyThreadState_GetID(PyThreadState_Get())

    cpdef bytes name(self):
        """Return what a call of this thread is called as an owner or waiter."""
        cdef char[NAME_ROOM] text
        cdef bytes session = self._session().id
        cdef Py_ssize_t size = PyBytes_GET_SIZE(session)
        cdef char *at = put_number(text + NAME_ROOM, next(numbers))
        at = put_number(at, PyThreadState_GetID(PyThreadState_Get()))
        if size > at - text:
            raise ValueError(f"the id of a session is too long: {session!r}")
        memcpy(at - size, PyBytes_AS_STRING(session), size)
        return PyBytes_FromStringAndSize(at - size, text + NAME_ROOM - at + size)

    # -- what is held ---------------------------------------------------------------

    cpdef int took(self, bytes key, object fence) except -1:
        """The calling thread has taken a lock or a permit."""
        cdef dict holders = self._held.get(key)
        cdef list mine
        cdef object thread = self.thread()
        if holders is None:
            holders = self._held[key] = {}
        mine = holders.get(thread)
        if mine is None:
            holders[thread] = [1, fence]
        else:
            # Of an earlier grant the client may not know that it has ended.
            mine[0] = 1 if fence and mine[1] != fence else mine[0] + 1
            mine[1] = fence
        if len(self._held) == 1:
            holding.add(self._session())
        return 0

    cpdef int gave(self, bytes key, object number=1) except -1:
        """Locks or permits were given back; another thread or process may have taken them."""
        cdef dict holders = self._held.get(key)
        cdef list mine
        cdef object thread
        if not holders:
            return 0
        thread = self.thread()
        if thread not in holders:
            thread = next(iter(holders))
        mine = holders[thread]
        mine[0] = mine[0] - number
        if mine[0] <= 0:
            del holders[thread]
            if not holders:
                self._held.pop(key, None)
                if not self._held:
                    holding.discard(self._session())
        return 0

    def hold_no_more(self, session):
        """Let the session go though it may hold something."""
        holding.discard(session)

    def lose_all(self, session):
        """The session was taken for dead: others may have what it held."""
        held, self._held = self._held, {}
        self.permits.clear()
        for key, threads in held.items():
            self._lost.setdefault(key, {}).update(threads)
        holding.discard(session)

    def renewed(self, key, fence):
        """The calling thread has its lock again, after it has slept at a condition."""
        mine = self._held.get(key, {}).get(self.thread())
        if mine is not None:
            mine[1] = fence

    def fence(self, key):
        """Return the number of the grant by which the calling thread, or else another, holds it."""
        holders = self._held.get(key)
        if not holders:
            return None
        return holders.get(self.thread(), next(iter(holders.values())))[1]

    cpdef list grant(self, bytes key):
        """Return the fence and the depth of what the calling thread holds; [] if not known."""
        cdef dict holders = self._held.get(key)
        cdef list mine = None if holders is None else holders.get(self.thread())
        return [mine[1], mine[0]] if mine is not None and mine[1] else []

    cpdef int note_permit(self, bytes key, bytes name) except -1:
        """The calling thread has got a permit by the wait of that name."""
        cdef dict permits = self.permits.get(key)
        if permits is None:
            permits = self.permits[key] = {}
        permits[self.thread()] = name
        return 0

    cpdef bytes permit(self, bytes key):
        """Forget and return the wait by which the calling thread, or else another, got a permit."""
        cdef dict permits = self.permits.get(key)
        cdef object thread
        cdef bytes name
        if not permits:
            return None
        thread = self.thread()
        name = permits.pop(thread if thread in permits else next(iter(permits)))
        if not permits:
            self.permits.pop(key, None)
        return name

    # -- what is lost ---------------------------------------------------------------

    cpdef int check(self, bytes key, bint gives=False) except -1:
        """Raise `LockLost`, once, where the calling thread held this and has lost it.

        A thread that `gives` back may do so for any thread that held a lock or a permit.
        """
        if not self._lost:
            return 0
        threads = self._lost.get(key)
        if threads is None:
            return 0
        thread = self.thread()
        if thread not in threads:
            is_owned = b":RLock-" in key or b":Condition-" in key
            if not gives or is_owned or thread in self._held.get(key, ()):
                return 0
            thread = next(iter(threads))
        self.forget_lost(key, thread)
        raise LockLost(
            "the connection that shows the server that this process lives was lost: others may "
            "have taken the lock since"
        )

    def forget_lost(self, key, thread=None):
        """Return how often the thread had taken what it has lost, and forget it."""
        threads = self._lost.get(key, {})
        lost = threads.pop(self.thread() if thread is None else thread, None)
        if not threads:
            self._lost.pop(key, None)
        return 0 if lost is None else lost[0]
