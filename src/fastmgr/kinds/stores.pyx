# cython: auto_pickle=False
"""Where the items of a queue are: in the server's own memory, and in a ring that clients share.

A queue begins with all its items in `items`.  When a client on the host asks where it is, it gets a
ring in shared memory (`kinds/ring.pxd`), in which clients put and get by themselves.  Then its
items are those of `front`, which were given back, those of the ring, and those of `items`, for
which the ring has no room; in this order.  Flags in the ring say what clients leave to the server,
which sets them at the end of each of its turns: what it changes in its own books before takes
effect for clients then.
"""

from fastmgr.kinds.ring cimport RING_HEAD, ring_clear, ring_count
from fastmgr.kinds.rings cimport NOTHING, Ring
from fastmgr.kinds.waits cimport Primitive
from fastmgr.link.system cimport fm_now_ns
from fastmgr.memory.arena cimport KIND_QUEUE, Arena, Cell
from fastmgr.memory.atomics cimport uint64_t

from collections import deque

cdef enum:
    MOST_RINGS = 64     # of one queue that may end within `PERIOD_NS`

# The memory of a ring that has ended is not used again as long as the queue is there.  What that
# costs is addresses, and a page: little enough for a program that runs long, whose clients die.
PERIOD_NS = 3600 * 10**9


cdef class Store(Primitive):
    """A primitive that has items; whoever waits for them is the subclass's."""

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_QUEUE
        self.items = deque()
        self.front = deque()
        self.old = []

    cdef uint64_t flags(self) except? 0:
        """What clients must leave to the server."""
        raise NotImplementedError

    cdef int balance(self) except -1:
        """Serve all who can be served, fill the ring, and tell clients what they may do."""
        raise NotImplementedError

    cdef bint settle(self, Arena arena) except -1:
        cdef Cell cell
        cdef Ring ring
        if self.ring is not None:
            return not self.ring.gone and self.cell.settle(arena)
        if arena.ring_size == 0 or (
            len(self.old) >= MOST_RINGS
            and fm_now_ns() - self.old[len(self.old) - MOST_RINGS][1] < PERIOD_NS
        ):
            return False
        try:
            cell = Cell(RING_HEAD + arena.ring_size)
            if not cell.settle(arena):
                return False
        except MemoryError:
            return False
        ring = Ring(cell, arena.thread)
        if self.ring is None:       # else another thread was quicker
            self.ring = ring
            self.cell = cell
            self.balance()      # which tells the ring of the tasks that there are
        return self.ring is not None and not self.ring.gone

    cdef int hand_on_all_of(self, uint64_t session) except -1:
        if self.ring is not None:
            self.ring.end_of(session)
            self.balance()
        return 0

    cdef Py_ssize_t size(self) except -1:
        if self.ring is None:
            return len(self.items)
        return len(self.front) + self.ring.count() + len(self.items)

    cdef Ring enter(self):
        """Begin a turn at the ring; None: there is none (another thread may have ended it)."""
        cdef Ring ring
        while True:
            ring = self.ring
            if ring is None:
                return None
            ring.enter()
            if self.ring is ring:
                break
        ring.turn.state.unfinished += <uint64_t>self.unfinished
        self.unfinished = 0
        return ring

    cdef object take_first(self):
        """Take the first item of a queue with a ring; NOTHING where there is none."""
        cdef Ring ring
        cdef uint64_t size = 0
        cdef char *data = NULL
        while True:
            if self.front:
                return self.front.popleft()
            data = NULL
            ring = self.enter() if self.ring is not None and self.ring.count() > 0 else None
            if ring is not None:
                try:
                    data = ring.pop(&size)
                finally:
                    ring.leave(self.flags())
            if data is NULL:
                # No client puts while there are `items`.
                return self.items.popleft() if self.items else NOTHING
            item = ring.read(data, size)
            if item is not NOTHING:
                return item

    cdef list take_some(self, Py_ssize_t most):
        """Take the first items of a queue with a ring, `most` of them at most."""
        cdef list got = []
        while len(got) < most and (item := self.take_first()) is not NOTHING:
            got.append(item)
        return got

    cdef int give_back(self, object item) except -1:
        """Put an item before all others."""
        if self.ring is None:
            self.items.appendleft(item)
        else:
            self.front.appendleft(item)
        return 0

    cdef Py_ssize_t size_in(self, Ring ring) except -1:
        """How many items there are, in a turn."""
        return len(self.front) + <Py_ssize_t>ring_count(&ring.turn) + len(self.items)

    cdef int come_home(self, Ring ring) except -1:
        """Do without a ring that has ended and is empty."""
        cdef tuple old = (self.cell, fm_now_ns())       # made first: it may collect garbage
        if self.ring is not ring:
            return 0
        ring_clear(ring.cell.at, ring.capacity, ring.turn.state.peak)
        self.unfinished += <Py_ssize_t>min(ring.turn.state.unfinished, <uint64_t>1 << 62)
        self.items.extendleft(reversed(self.front))
        self.front.clear()
        self.old.append(old)
        self.ring = self.cell = None
        return 0

    cdef bint task_is_done(self) except -1:
        """Count one task less; False where there is none."""
        cdef Ring ring = self.enter()
        cdef bint any_left
        if ring is None:
            any_left = self.unfinished > 0
            self.unfinished -= any_left
        else:
            any_left = ring.turn.state.unfinished > 0
            ring.turn.state.unfinished -= any_left
            ring.leave(self.flags())
        return any_left

    cdef int drop_all(self) except -1:
        """Drop all items, and count their tasks as done."""
        cdef Ring ring = self.enter()
        cdef Py_ssize_t dropped = 0
        cdef uint64_t unfinished
        if ring is not None:
            dropped = ring.clear()
            unfinished = ring.turn.state.unfinished
            ring.turn.state.unfinished = unfinished - min(
                unfinished, <uint64_t>(dropped + len(self.front) + len(self.items)))
            ring.leave(self.flags())
        else:
            self.unfinished = max(0, self.unfinished - len(self.items))
        _fronts, self.front = self.front, deque()
        _items, self.items = self.items, deque()
        return 0    # what was dropped is destroyed now that the books agree
