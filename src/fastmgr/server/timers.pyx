"""The deadlines of parked calls."""

cimport cython

from fastmgr.kinds.waits cimport Waiter

from heapq import heapify, heappop, heappush

cdef double FOREVER = float("inf")


@cython.final
cdef class Timers:
    """A heap of the waiters that have a deadline; a finished waiter may stay until its deadline."""

    def __init__(self):
        self.heap = []
        self.next = FOREVER

    cdef bint set(self, Waiter waiter, Py_ssize_t conns) except -1:
        """Let the waiter time out at its deadline; whether that is the first of all deadlines.

        `conns` is how many connections there are: each waits for one thing at a time.
        """
        cdef tuple timer
        cdef list kept
        if not waiter.deadline < FOREVER:
            return False        # nor for a timeout that is not a number
        # All that is allocated comes first: it may have the collector run finalizers, while which
        # other threads set timers of theirs.
        self.serial += 1
        timer = waiter.deadline, self.serial, waiter
        if len(self.heap) > 64 and len(self.heap) > 4 * conns:
            kept = []           # most of them are over
            for old in self.heap:
                if not (<Waiter>old[2]).finished:
                    kept.append(old)
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
                if waiter.deadline != FOREVER:
                    break
            heappop(self.heap)
            if not waiter.finished and waiter.deadline <= now:
                waiter.at.expire(waiter)
        self.next = self.heap[0][0] if self.heap else FOREVER
        return 0
