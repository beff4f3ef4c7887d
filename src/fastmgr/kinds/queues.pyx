# cython: auto_pickle=False
"""Queues, on which `get`, `put` and `join` may have to wait."""

from fastmgr.kinds.waits cimport Primitive, Waiter

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

import queue
from collections import deque
from math import ceil
from operator import index

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


cdef int fail_put(Waiter waiter, object error) except -1:
    """Finish a put with an error; that of a `put_many` says how many items were put."""
    if waiter.method == "put_many":
        error.put = waiter.most - <Py_ssize_t>len(waiter.item)
    return waiter.fail(error)


cdef class _BaseQueue(Primitive):
    """As `queue.Queue`; `waiting` has the waiters of `get` and `get_many`."""

    cdef readonly Py_ssize_t maxsize
    cdef object items
    cdef object putting         # deque of Waiter, each with what it brings: an item, or a deque
    cdef list joining
    cdef Py_ssize_t unfinished
    cdef readonly bint is_shutdown

    def __init__(self, maxsize=0):
        # No queue gets longer than that; a queue of at most 2.5 items is full when it has 3.
        self.maxsize = ceil(max(-PY_SSIZE_T_MAX, min(maxsize, PY_SSIZE_T_MAX)))
        self.items = deque()
        self.putting = deque()
        self.joining = []

    cdef str state(self):
        bound = f"/{self.maxsize}" if self.maxsize > 0 else ""
        return f"size={len(self.items)}{bound}" + ", shut down" * self.is_shutdown

    cdef bint blocks(self, object name):
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
            if waiter.most:
                move(bringing, waiter.item, waiter.most)
                finish_many(waiter)
            else:
                waiter.done(bringing.popleft())
        return 0

    cdef int add_many(self, object bringing) except -1:
        """Take from a deque, in order, what somebody waits for and what there is room for."""
        cdef Py_ssize_t brought = len(bringing)
        self.hand_over(bringing)
        move(
            bringing, self.items,
            PY_SSIZE_T_MAX if self.maxsize <= 0 else self.maxsize - <Py_ssize_t>len(self.items))
        self.unfinished += brought - <Py_ssize_t>len(bringing)
        return 0

    cdef int admit(self) except -1:
        """Let the puts that wait have the room of items that were taken, first come first served.

        A `put_many` stays the first until all of its items are put.
        """
        cdef Waiter waiter
        while self.putting and len(self.items) < self.maxsize:
            waiter = self.putting[0]
            if waiter.most:
                self.add_many(waiter.item)
                if waiter.item:
                    return 0
            self.putting.popleft()
            item, waiter.item = waiter.item, None
            if not waiter.most:
                self.add(item)
            waiter.done(None)
        return 0

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
            self.items.appendleft(back.pop())
        return 0

    def _put(self, Waiter waiter, item, block=True, timeout=None):
        waiter.puts = True
        if self.is_shutdown:
            waiter.fail(ShutDown())
        elif block and timeout is not None and timeout < 0 and self.maxsize > 0:
            raise ValueError("'timeout' must be a non-negative number")
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

    def _get(self, Waiter waiter, block=True, timeout=None):
        if block and timeout is not None and timeout < 0 and not (
            self.is_shutdown and not self.items
        ):
            raise ValueError("'timeout' must be a non-negative number")
        if self.items:
            item = self.items.popleft()
            self.admit()
            waiter.done(item)
        elif self.is_shutdown:
            waiter.fail(ShutDown())
        elif not block:
            waiter.fail(queue.Empty())
        else:
            self.park(waiter, self.waiting, timeout)

    def _get_nowait(self, Waiter waiter):
        self._get(waiter, False)

    def _get_many(self, Waiter waiter, max_items, block=True, timeout=None):
        cdef Py_ssize_t most = min(index(max_items), PY_SSIZE_T_MAX)
        cdef list got = []
        if most < 1:
            raise ValueError(f"max_items={max_items!r}: 1 or more is needed")
        waiter.most = most
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
        if self.unfinished == 0:
            waiter.done(None)
        else:
            self.park(waiter, self.joining, None)

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
        if self.unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished -= 1
        if self.unfinished == 0:
            self.all_done()

    def qsize(self):
        return len(self.items)

    def empty(self):
        return not self.items

    def full(self):
        return 0 < self.maxsize <= len(self.items)


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
        while q.items:
            q.items.popleft()
            if q.unfinished > 0:
                q.unfinished -= 1
        if q.unfinished == 0:
            q.all_done()
    for waiter in list(q.putting):
        fail_put(waiter, ShutDown())
    q.putting.clear()
    while (waiter := q.next_waiter()) is not None:
        waiter.fail(ShutDown())
