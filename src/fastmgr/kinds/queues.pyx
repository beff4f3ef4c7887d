# cython: auto_pickle=False
"""Queues, on which `get`, `put` and `join` may have to wait."""

from fastmgr.kinds.waits cimport Primitive, Waiter

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

import queue
from collections import deque
from math import ceil

cdef object ShutDown = getattr(queue, "ShutDown", None)


cdef class _BaseQueue(Primitive):
    """As `queue.Queue`; `waiting` has the waiters of `get`."""

    cdef readonly Py_ssize_t maxsize
    cdef object items
    cdef object putting         # deque of Waiter, each with the item that it brings
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
        return name == "get" or name == "put" or name == "join" or name == "get_nowait"

    cdef int add(self, object item) except -1:
        cdef Waiter waiter = self.next_waiter()
        self.unfinished += 1
        if waiter is None:
            self.items.append(item)
        else:
            waiter.done(item)
        return 0

    cdef int admit(self) except -1:
        """Let the first put that waits have the room of an item that was taken, if it still is."""
        cdef Waiter waiter
        if not self.putting or len(self.items) >= self.maxsize:
            return 0
        waiter = self.putting.popleft()
        item, waiter.item = waiter.item, None
        waiter.done(None)
        return self.add(item)

    cdef int expire(self, Waiter waiter) except -1:
        if waiter.finished:
            return 0
        if waiter.puts:
            self.putting.remove(waiter)
            waiter.fail(queue.Full())
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
        cdef Waiter other
        if (waiter.method == "get" or waiter.method == "get_nowait") and not waiter.failed:
            other = self.next_waiter()
            if other is None:
                self.items.appendleft(waiter.value)
            else:
                other.done(waiter.value)
        return 0

    def _put(self, Waiter waiter, item, block=True, timeout=None):
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
            waiter.puts = True

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
        waiter.fail(ShutDown())
    q.putting.clear()
    while (waiter := q.next_waiter()) is not None:
        waiter.fail(ShutDown())
