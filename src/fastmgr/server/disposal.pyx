"""Dropping objects on workers, where a destructor may be a user's, or take long."""

cimport cython

from fastmgr.memory.cells cimport Celled
from fastmgr.server.table cimport Entry
from fastmgr.wire.opaque cimport Opaque

cdef frozenset PLAIN = frozenset((bool, int, float, str, bytes, Opaque))


cdef bint is_hard_to_drop(Entry entry) except -1:
    """Whether the loop must not drop the entry."""
    return not entry.known or isinstance(entry.obj, Celled) and (<Celled>entry.obj).is_heavy(True)


cdef bint is_plain(object value) noexcept:
    """Whether no destructor of a user's can hang on the value."""
    return value is None or type(value) in PLAIN


@cython.final
cdef class Disposal:
    """What is to be dropped, and how many threads are at it."""

    def __init__(self, workers):
        self.workers = workers
        self.doomed = []

    cdef int drop(self, list dead) except -1:
        """Drop entries, on a worker if one of them is hard to drop."""
        for entry in dead:
            if is_hard_to_drop(entry):
                return self.drop_elsewhere(dead)
        return 0

    cdef int drop_elsewhere(self, list dead) except -1:
        """Drop what is in the list on a worker."""
        self.disposing += 1
        try:
            self.workers.submit(self.drop_here, "disposal", dead)
        except BaseException:
            self.disposing -= 1     # there is no thread for it
            raise
        return 0

    def drop_here(self, list dead):
        """Drop what is in the list."""
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
        """The loop's turn is over: none of its frames has a reference to what was doomed."""
        cdef list doomed
        if self.doomed:
            doomed, self.doomed = self.doomed, []
            self.drop_elsewhere(doomed)
        return 0
