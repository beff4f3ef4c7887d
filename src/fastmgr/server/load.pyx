"""What is left of processors, which decides who may spin, and of descriptors.

A client and the thread that serves it want a processor each; the loop serves many clients with
one.  The server spins where processors are left, and says in its replies whether clients may.
"""

cimport cython

import os
import resource

# With fewer descriptors than these a server makes do without those that only make it faster.
cdef int MANY_DESCRIPTORS = 32


def has_few_descriptors():
    """Whether this process may open so few files that its clients need all of them."""
    return 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < MANY_DESCRIPTORS


@cython.final
cdef class Load:
    """Who has sent the last requests, and what served them."""

    def __init__(self):
        try:
            self.cores = len(os.sched_getaffinity(0))
        except (AttributeError, OSError):       # not on this system, or not in this sandbox
            self.cores = os.cpu_count() or 1

    cdef int count(self) noexcept:
        """Count who has sent the last `RECENT` requests."""
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
