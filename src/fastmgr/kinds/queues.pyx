# cython: auto_pickle=False
"""Queues, on which `get`, `put` and `join` may have to wait.

The items are where `kinds/stores.pyx` has them.  This is about who waits: for an item, for room or
for the last task, and in which order they are served, whether clients put and get by themselves
meanwhile or not.
"""

from fastmgr.kinds.ring cimport DONE_ASKS, GET_ASKS, NONE_ASKS, PUT_ASKS
from fastmgr.kinds.rings cimport Batch, Ring
from fastmgr.kinds.stores cimport Store
from fastmgr.kinds.waits cimport BUSY, Waiter, still_waiting
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.wire.opaque cimport Opaque

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

import queue
from collections import deque
from math import ceil
from operator import index

cdef enum:
    MOST_BATCHES = 4    # that one call moves into a ring: others are waiting for the loop

cdef object ShutDown = getattr(queue, "ShutDown", None)


cdef int move(object source, object target, Py_ssize_t most) except -1:
    """Move the first items of a deque to the end of a deque or list, `most` of them at most.

    It allocates nothing that the garbage collector tracks, so no other thread runs meanwhile.
    """
    cdef Py_ssize_t _i
    for _i in range(min(most, <Py_ssize_t>len(source))):
        target.append(source.popleft())
    return 0


cdef int finish_many(Waiter waiter) except -1:
    """Finish a `get_many` with the items that it was given."""
    got, waiter.item = waiter.item, None
    return waiter.done(got)


cdef int give(Waiter waiter, object bringing) except -1:
    """Give the first of a deque's items to one that waits, or as many as it takes."""
    if not waiter.most:
        return waiter.done(bringing.popleft())
    move(bringing, waiter.item, waiter.most)
    return finish_many(waiter)


cdef int fail_put(Waiter waiter, object error) except -1:
    """Finish a put with an error; that of a `put_many` says how many items were put."""
    if waiter.method == "put_many":
        error.put = waiter.most - <Py_ssize_t>len(waiter.item)
    return waiter.fail(error)


cdef class _BaseQueue(Store):
    """As `queue.Queue`; `waiting` has the waiters of `get` and `get_many`."""

    cdef readonly Py_ssize_t maxsize
    cdef object putting         # deque of Waiter, each with what it brings: an item, or a deque
    cdef list joining
    cdef readonly bint is_shutdown

    def __init__(self, maxsize=0):
        # No queue gets longer than that; a queue of at most 2.5 items is full when it has 3.
        self.maxsize = ceil(max(-PY_SSIZE_T_MAX, min(maxsize, PY_SSIZE_T_MAX)))
        self.putting = deque()
        self.joining = []

    cdef list waiters(self):
        return still_waiting([*self.waiting, *self.putting, *self.joining])

    cdef str state(self):
        bound = f"/{self.maxsize}" if self.maxsize > 0 else ""
        return f"size={self.size()}{bound}" + ", shut down" * self.is_shutdown

    cdef int blocks(self, object name):
        if self.ring is not None and self.ring.is_busy():
            return BUSY
        return (
            name == "get" or name == "put" or name == "join" or name == "get_nowait"
            or name == "get_many" or name == "put_many"
        )

    cdef int add(self, object item) except -1:
        cdef Waiter waiter = self.next_waiter()
        self.unfinished += 1
        if waiter is None:
            self.items.append(item)
        elif waiter.most:
            waiter.item.append(item)
            finish_many(waiter)
        else:
            waiter.done(item)
        return 0

    cdef int hand_over(self, object bringing) except -1:
        """Give the first items of a deque to those who wait, to each as many as it takes."""
        cdef Waiter waiter
        while bringing and (waiter := self.next_waiter()) is not None:
            give(waiter, bringing)
        return 0

    cdef int add_many(self, object bringing) except -1:
        """Take from a deque, in order, what somebody waits for and what there is room for."""
        cdef Py_ssize_t room = self.room()
        cdef Py_ssize_t brought = len(bringing)
        if self.ring is None or self.size() == 0:   # else a client put before the flags said to ask
            self.hand_over(bringing)
        move(bringing, self.items, room)
        self.unfinished += brought - <Py_ssize_t>len(bringing)
        return self.balance() if self.ring is not None else 0

    cdef int admit(self) except -1:
        """Let the puts that wait have the room of items that were taken, in order."""
        while self.putting and len(self.items) < self.maxsize:
            self.admit_first(self.maxsize - <Py_ssize_t>len(self.items))
        return 0

    cdef int admit_first(self, Py_ssize_t room) except -1:
        """Take what there is room for from the first put that waits.

        A `put_many` stays the first until all of its items are put.
        """
        cdef Waiter waiter = self.putting[0]
        cdef Py_ssize_t brought
        if waiter.most:
            brought = len(waiter.item)
            move(waiter.item, self.items, room)
            self.unfinished += brought - <Py_ssize_t>len(waiter.item)
            if waiter.item:
                return 0
        self.putting.popleft()
        item, waiter.item = waiter.item, None
        if not waiter.most:
            self.items.append(item)
            self.unfinished += 1
        return waiter.done(None)

    cdef int expire(self, Waiter waiter) except -1:
        if waiter.finished:
            return 0
        if waiter.puts:
            self.putting.remove(waiter)
            fail_put(waiter, queue.Full())
        else:
            self.unqueue(waiter)
            waiter.fail(queue.Empty())
        return 0

    cdef int cancel(self, Waiter waiter) except -1:
        if waiter.finished:
            return 0
        if waiter in self.joining:
            self.joining.remove(waiter)
        elif waiter.puts:
            self.putting.remove(waiter)
        else:
            self.unqueue(waiter)
        return waiter.finish_unanswered()

    cdef int take_back(self, Waiter waiter) except -1:
        if waiter.puts or waiter.failed or waiter.method == "join":
            return 0
        back = deque(waiter.value if waiter.method == "get_many" else (waiter.value,))
        self.hand_over(back)
        while back:
            self.give_back(back.pop())
        return self.balance()

    # -- with a ring ------------------------------------------------------------

    cdef object about(self):
        return self.maxsize

    cdef uint64_t flags(self) except? 0:
        """What clients must leave to the server."""
        cdef uint64_t flags = 0
        if (
            self.items or self.putting or self.front or self.is_shutdown
            or len(self.waiting) > self.dead
        ):
            flags |= PUT_ASKS
        if self.front or self.putting:
            flags |= GET_ASKS
        if self.items or self.is_shutdown:
            flags |= NONE_ASKS
        if self.joining:
            flags |= DONE_ASKS
        return flags

    cdef int balance(self) except -1:
        """Serve all who can be served, fill the ring, and tell clients what they may do."""
        cdef Ring ring = self.ring
        cdef Batch batch
        cdef Waiter waiter
        cdef Py_ssize_t total, moved
        cdef int batches = 0
        cdef bint serve, admit, end_joins
        while True:
            batch = None
            if ring is not None and self.items and batches < MOST_BATCHES and ring.wants():
                batches += 1
                batch = ring.encode(self.items)
            ring = self.enter()
            if ring is None:
                return self.all_done() if self.joining and self.unfinished == 0 else 0
            moved = 0 if batch is None or ring.gone else ring.push(batch, self.items)
            total = self.size_in(ring)
            serve = total > 0 and len(self.waiting) > self.dead
            admit = len(self.putting) > 0 and total < self.maxsize
            end_joins = len(self.joining) > 0 and ring.turn.state.unfinished == 0
            ring.leave(self.flags())
            if end_joins:
                self.all_done()
            if serve and self.waiting:
                # A turn may take long: whoever waited may have gone by the time there are items.
                waiter = self.waiting[0]
                bringing = deque(self.take_some(max(1, waiter.most)))
                self.hand_over(bringing)
                while bringing:
                    self.give_back(bringing.pop())
            elif admit:
                # No client puts meanwhile: the flags say that somebody waits.
                self.admit_first(self.maxsize - total)
            elif not end_joins and (moved == 0 or not self.items):
                break
        if ring.gone and self.ring is ring and total == len(self.front) + len(self.items):
            self.come_home(ring)
        return 0

    cdef Py_ssize_t room(self) except -1:
        """How many items there is room for, which no client takes until `balance` has looked."""
        cdef Ring ring = self.enter()
        cdef Py_ssize_t room = PY_SSIZE_T_MAX
        if ring is None:
            return room if self.maxsize <= 0 else max(0, self.maxsize - <Py_ssize_t>len(self.items))
        if self.maxsize > 0:
            room = max(0, self.maxsize - self.size_in(ring))
        ring.leave(self.flags() | PUT_ASKS)
        return room

    cdef bint get_beside_ring(self, Waiter waiter) except -1:
        """Get what is there, where there is a ring; False where that is nothing."""
        bringing = deque(self.take_some(max(1, waiter.most)))
        if bringing:
            give(waiter, bringing)
            self.balance()
            return True
        return False

    cdef list get_many_beside_ring(self, Py_ssize_t most):
        """Take the items that are there, and those for which that makes room.

        It takes none that clients put meanwhile: it would follow quick producers for ever.
        """
        cdef list got = []
        cdef list more = self.take_some(min(most, self.size()))
        cdef bint makes_room
        while more:
            got += more
            makes_room = len(self.putting) > 0
            self.balance()
            more = self.take_some(min(most - len(got), self.size())) if makes_room else []
        return got

    # -- methods ------------------------------------------------------------------

    def _put(self, Waiter waiter, item, block=True, timeout=None):
        waiter.puts = True
        if self.is_shutdown:
            waiter.fail(ShutDown())
        elif block and timeout is not None and timeout < 0 and self.maxsize > 0:
            raise ValueError("'timeout' must be a non-negative number")
        elif self.ring is not None:
            bringing = deque((item,))
            self.add_many(bringing)
            if not bringing:
                waiter.done(None)
            elif not block:
                waiter.fail(queue.Full())
            else:
                self.park(waiter, self.putting, timeout)
                waiter.item = item
                self.balance()
        elif self.maxsize <= 0 or len(self.items) < self.maxsize:
            self.add(item)
            waiter.done(None)
        elif not block:
            waiter.fail(queue.Full())
        else:
            self.park(waiter, self.putting, timeout)
            waiter.item = item

    def _put_many(self, Waiter waiter, items, block=True, timeout=None):
        bringing = deque(items)
        waiter.puts = True
        waiter.most = len(bringing)
        if block and timeout is not None and timeout < 0 and self.maxsize > 0:
            raise ValueError("'timeout' must be a non-negative number")
        waiter.item = bringing
        if not self.is_shutdown:
            self.add_many(bringing)
        if not bringing:
            waiter.done(None)
        elif self.is_shutdown:
            fail_put(waiter, ShutDown())
        elif not block:
            fail_put(waiter, queue.Full())
        else:
            self.park(waiter, self.putting, timeout)
            if self.ring is not None:
                self.balance()

    def _get(self, Waiter waiter, block=True, timeout=None):
        if block and timeout is not None and timeout < 0 and not (
            self.is_shutdown and not self.size()
        ):
            raise ValueError("'timeout' must be a non-negative number")
        if self.ring is None and self.items:
            item = self.items.popleft()
            self.admit()
            waiter.done(item)
        elif self.ring is not None and self.get_beside_ring(waiter):
            pass
        elif self.is_shutdown:
            waiter.fail(ShutDown())
        elif not block:
            waiter.fail(queue.Empty())
        else:
            self.park(waiter, self.waiting, timeout)
            if self.ring is not None:
                self.balance()

    def _get_nowait(self, Waiter waiter):
        self._get(waiter, False)

    def _get_many(self, Waiter waiter, max_items, block=True, timeout=None):
        cdef Py_ssize_t most = min(index(max_items), PY_SSIZE_T_MAX)
        cdef list got = []
        if most < 1:
            raise ValueError(f"max_items={max_items!r}: 1 or more is needed")
        waiter.most = most
        if self.ring is not None and not (block and timeout is not None and timeout < 0):
            got = self.get_many_beside_ring(most)
            if got:
                waiter.done(got)
                return
        if not self.items:
            waiter.item = got
            return self._get(waiter, block, timeout)    # which raises, or waits
        if block and timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        while self.items and len(got) < most:
            move(self.items, got, most - len(got))
            self.admit()
        waiter.done(got)

    def _join(self, Waiter waiter):
        if self.ring is None and self.unfinished == 0:
            waiter.done(None)
        else:
            self.park(waiter, self.joining, None)
            if self.ring is not None:
                self.balance()

    cdef int all_done(self) except -1:
        cdef Waiter waiter
        joining, self.joining = self.joining, []
        for waiter in joining:
            waiter.done(None)
        return 0

    def put(self, item, block=True, timeout=None):
        return self.block("put", (item, block, timeout))

    def get(self, block=True, timeout=None):
        return self.block("get", (block, timeout))

    def put_nowait(self, item):
        return self.block("put", (item, False))

    def put_many(self, items, block=True, timeout=None):
        """Put each of `items` in turn, as one call; it waits for room for each, in order.

        Parameters
        ----------
        items : iterable
        block : bool, default True
            False: put those for which there is room.
        timeout : float, optional
            Seconds, for all of them together.

        Raises
        ------
        queue.Full
            There was no room for all; its `put` says how many were put.
        queue.ShutDown
            The queue was shut down (Python 3.13); it has `put`, too.
        """
        return self.block("put_many", (items, block, timeout))

    def get_many(self, max_items, block=True, timeout=None):
        """Return a list of those items that are there, `max_items` at most, and at least one.

        It waits for the first, and for no more.

        Parameters
        ----------
        max_items : int
            1 or more.
        block : bool, default True
        timeout : float, optional
            Seconds.

        Raises
        ------
        queue.Empty
            There was none in time.
        queue.ShutDown
            There is none, and the queue was shut down (Python 3.13).
        """
        return self.block("get_many", (max_items, block, timeout))

    def get_nowait(self):
        return self.block("get_nowait", ())

    def join(self):
        return self.block("join", ())

    def task_done(self):
        if not self.task_is_done():
            raise ValueError("task_done() called too many times")
        if self.joining:
            self.balance()

    def qsize(self):
        return self.size()

    def empty(self):
        return not self.size()

    def full(self):
        return 0 < self.maxsize <= self.size()


cdef list unread_places(_BaseQueue q):
    """Each deque of the server's own that may have unread values: none are in a ring."""
    cdef Waiter waiter
    return [q.front, q.items, *[waiter.item for waiter in q.putting if waiter.most]]


def unread_values(_BaseQueue q not None):
    """Return the items that the server has not read, also of puts that wait."""
    cdef Waiter waiter
    values = [waiter.item for waiter in q.putting if not waiter.most]
    for place in unread_places(q):
        values += place
    return [value for value in values if type(value) is Opaque]


def put_in_place(_BaseQueue q not None, dict read not None):
    """Put values that were read in the place of the unread ones."""
    cdef Waiter waiter
    cdef Py_ssize_t i
    for waiter in q.putting:
        if not waiter.most and type(waiter.item) is Opaque:
            waiter.item = read.get(waiter.item, waiter.item)
    for place in unread_places(q):
        for i in range(len(place)):
            if type(place[i]) is Opaque:
                place[i] = read.get(place[i], place[i])


class Queue(_BaseQueue):
    """As `queue.Queue`."""

    if ShutDown is not None:
        def shutdown(self, immediate=False):
            _shut_down(self, immediate)


def _shut_down(_BaseQueue q, bint immediate):
    """Do what `queue.Queue.shutdown` does, which CPython has since 3.13."""
    cdef Waiter waiter
    q.is_shutdown = True
    if immediate:
        q.drop_all()
    for waiter in list(q.putting):
        fail_put(waiter, ShutDown())
    q.putting.clear()
    while (waiter := q.next_waiter()) is not None:
        waiter.fail(ShutDown())
    q.balance()
