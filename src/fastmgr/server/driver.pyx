"""What a loop and a worker have to serve by.

A client and the thread that serves it want a processor each; the loop serves many clients with
one.  The server spins where processors are left, and says in its replies whether clients may.

A worker drops objects whose destructor may be a user's, or may take long.
"""

cimport cython
from libc.math cimport INFINITY

from fastmgr.link.system cimport fm_share_heap
from fastmgr.memory.arena cimport Celled
from fastmgr.wire.opaque cimport Opaque

import os
import resource
from heapq import heapify, heappop, heappush

# With fewer descriptors than these a server makes do without those that only make it faster.
cdef int MANY_DESCRIPTORS = 32
# No destructor of a user's can hang on one of these.
cdef frozenset PLAIN = frozenset((bool, int, float, str, bytes, Opaque))


def has_few_descriptors():
    """Whether this process may open so few files that its connections need all of them."""
    return 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < MANY_DESCRIPTORS


def share_heap():
    """Let all threads of this process, which is a server's alone, allocate from one heap.

    They take turns with the interpreter's lock anyway.  `MALLOC_ARENA_MAX` in the environment
    prevails.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        fm_share_heap()


@cython.final
cdef class Load:
    """Which clients have sent the last requests, and which threads served them."""

    def __init__(self):
        try:
            self.cores = len(os.sched_getaffinity(0))
        except (AttributeError, OSError):       # not on this system, or not in this sandbox
            self.cores = os.cpu_count() or 1

    cdef int count(self) noexcept:
        """Count the clients of the last `RECENT` requests."""
        cdef int i, j, loop_clients = 0, worker_clients = 0
        for i in range(RECENT):
            for j in range(i):
                if self.recent[j] == self.recent[i]:
                    break
            else:
                if self.recent[i] > 0:
                    loop_clients += 1
                else:
                    worker_clients += 1
        self.may_spin = (
            loop_clients + (1 if loop_clients else 0) + 2 * worker_clients <= self.cores
        )
        return 0


@cython.final
cdef class Timers:
    """A heap of the waiters that have a deadline; a finished waiter may stay in it until then."""

    def __init__(self):
        self.heap = []
        self.next = INFINITY

    cdef bint set(self, Waiter waiter, Py_ssize_t conns) except -1:
        """Let the waiter time out at its deadline; return whether that is now the first deadline.

        `conns` is the number of connections, of which each waits for one thing at a time.
        """
        cdef tuple timer
        cdef list kept
        if not waiter.deadline < INFINITY:       # NaN is not, either
            return False
        # Allocate before the heap changes: a collection may run finalizers, and let other threads
        # set timers meanwhile.
        self.serial += 1
        timer = waiter.deadline, self.serial, waiter
        if len(self.heap) > 64 and len(self.heap) > 4 * conns:
            kept = [old for old in self.heap if not (<Waiter>old[2]).finished]
            heapify(kept)
            self.heap = kept
        heappush(self.heap, timer)
        if waiter.deadline >= self.next:
            return False
        self.next = waiter.deadline
        return True

    cdef int expire(self, double now) except -1:
        """Time out the parked calls whose deadline has passed."""
        cdef Waiter waiter
        while self.heap:
            waiter = self.heap[0][2]
            if not waiter.finished and waiter.deadline > now:
                if waiter.deadline != INFINITY:
                    break
            heappop(self.heap)
            if not waiter.finished and waiter.deadline <= now:
                waiter.at.expire(waiter)
        self.next = self.heap[0][0] if self.heap else INFINITY
        return 0


cdef class Driver:
    """The thread that serves a frame: the loop, or a worker."""

    def __cinit__(self, *args):
        self.reader = Reader()
        self.writer = Writer()

    cdef int send_replies(self, Conn conn) except -1:
        """Send the replies to the connection's frames that the writer has collected."""
        raise NotImplementedError


@cython.final
cdef class Worker(Driver):
    """A thread that serves one connection by blocking reads."""

    cdef int send_replies(self, Conn conn) except -1:
        if self.writer.size or conn.stream.unsent is not None:
            conn.stream.send_all(self.writer.data, self.writer.size, self.writer.buffers or None)
            self.writer.reset()
        return 0


cdef bint is_hard_to_drop(Entry entry) except -1:
    """Whether the loop must not drop the entry."""
    return not entry.known or isinstance(entry.obj, Celled) and (<Celled>entry.obj).is_heavy(True)


cdef bint is_plain(object value) noexcept:
    """Whether no destructor of a user's can hang on the value."""
    return value is None or type(value) in PLAIN


@cython.final
cdef class Disposal:
    """Drops objects, and counts the threads that do."""

    def __init__(self, workers):
        self.workers = workers
        self.doomed = []

    cdef int drop(self, list dead) except -1:
        """Drop entries, on a worker if one of them is hard to drop."""
        if any([is_hard_to_drop(entry) for entry in dead]):
            return self.drop_elsewhere(dead)
        return 0

    cdef int drop_elsewhere(self, list dead) except -1:
        """Have a worker empty the list."""
        self.disposing += 1
        try:
            self.workers.submit(self.drop_here, "disposal", dead)
        except BaseException:
            self.disposing -= 1     # there is no thread for it
            raise
        return 0

    def drop_here(self, list dead):
        try:
            dead.clear()
        finally:
            self.disposing -= 1

    cdef int doom(self, object value) except -1:
        """Have a worker drop a value that nobody takes, unless no user's destructor hangs on it."""
        if not is_plain(value):
            self.doomed.append(value)
        return 0

    cdef int turn(self) except -1:
        """The loop's turn is over, so none of its frames refers to what was doomed."""
        if self.doomed:
            doomed, self.doomed = self.doomed, []
            self.drop_elsewhere(doomed)
        return 0
