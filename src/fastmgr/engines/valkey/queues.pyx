# cython: auto_pickle=False, boundscheck=True, wraparound=True
"""The methods of queues."""

from fastmgr.client.limits cimport limits
from fastmgr.engines.valkey.values cimport decode, encode
from fastmgr.engines.valkey.waiting cimport SeldomWait, Wait

import math
import operator
import queue

from fastmgr.client.limits import GRACE, unlimited
from fastmgr.engines.valkey.errors import ReplyError, exception_of
from fastmgr.engines.valkey.references import hold, release, store
from fastmgr.engines.valkey.waiting import (
    MOST, declare, make, shown_at, timeout_of,
)


cdef class GetterWait(Wait):
    """A call that waits for an item."""

    def granted(self, token):
        """Take the item, or learn that there will be none."""
        reply = self.persist(b"_look")
        return reply

    def end(self, reply):
        return reply if reply[0] == 1 else None


cdef class PutterWait(Wait):
    """A call that waits for room for its item."""

    cdef bint is_withdrawn

    def withdraw(self):
        request = self.request(b"put_withdraw")
        self.is_withdrawn = self.session.life.withdraw(request) == [0]

    def granted(self, token):
        if token == b"S":  # the queue has been shut down
            self.persist(b"_look")
        return [1]

    def end(self, reply):
        return reply if reply[0] == 1 else None

    def settle(self):
        return self.end(self.persist(b"_settle"))


cdef class ManyPutterWait(PutterWait):
    """A call that waits for room for several items, each in turn."""

    # How many were put before the session was taken for dead, or the caller interrupted.
    cdef object number

    def __cinit__(self, *args):
        self.number = 0

    def withdraw(self):
        reply = self.session.life.withdraw(self.request(b"put_withdraw"))
        if isinstance(reply, list) and reply[0] == 0:
            self.is_withdrawn = True
            self.note(reply)

    def granted(self, token):
        return self.persist(b"_look") if token == b"S" else [1]

    def end(self, reply):
        if reply[0] in (1, 4):
            return reply
        self.note(reply)

    cdef int note(self, list reply) except -1:
        self.number = reply[1] if len(reply) > 1 else 0
        return 0


cdef bytes _blocking(object block, object timeout):
    """Return how a function of queues is told whether to wait."""
    if not block:
        return b"0"
    return b"-" if timeout is not None and timeout < 0 else b"1"


def put(session, bytes key, item, block=True, timeout=None):
    cdef object reply, seconds = timeout_of(timeout) if block else None
    cdef bytes how = _blocking(block, seconds)
    cdef bytes data = encode(item, session.address)
    cdef PutterWait putter
    if data.startswith(b"R"):
        hold(session, key, data)
    while True:
        putter = PutterWait.__new__(PutterWait)
        putter.prepare(session, (key,), b"put")
        try:
            reply = putter.go([*putter.request_for(b"queue_put"), how, data], seconds)
        except BaseException:
            if putter.answered or putter.is_withdrawn:
                release(session, key, (data,))  # else nobody knows whether the item is there
            raise
        if reply is not None:
            return
        session.life.is_seen(putter.id)
        seconds = putter.left()  # the session was taken for dead


def put_nowait(session, key, item):
    put(session, key, item, False)


def put_many(session, bytes key, items, block=True, timeout=None):
    cdef object reply, seconds = timeout_of(timeout) if block else None
    cdef bytes how = _blocking(block, seconds)
    cdef ManyPutterWait putter
    cdef list left = []
    try:
        for item in items:
            left.append(store(session, key, item))
    except BaseException:
        release(session, key, left)
        raise
    all_of_them = len(left)
    while left:
        putter = ManyPutterWait(session, key, b"put")
        try:
            reply = putter.begin(b"queue_put_many", how, *left, timeout=seconds)
        except BaseException as error:
            if putter.is_withdrawn or (putter.answered and not isinstance(error, OSError)):
                release(session, key, left[putter.number:])
            raise
        if reply is None:
            del left[:putter.number]
            session.life.is_seen(putter.id)
            seconds = putter.left()  # the session was taken for dead
            continue
        if reply != [1]:
            del left[:reply[1]]
            if left or reply[0] == 4:
                release(session, key, left)
                raise _not_all_put(reply[0] == 4, all_of_them - len(left))
        return


cdef object _not_all_put(bint is_shut_down, object number):
    error = exception_of(ReplyError(b"FM SHUTDOWN" if is_shut_down else b"FM FULL"))
    error.put = number
    return error


def get(session, bytes key, block=True, timeout=None):
    return take_items(session, key, b"queue_get", block, timeout, ())[0]


cdef list take_items(
    object session, bytes key, bytes function, object block, object timeout, tuple most
):
    """Wait for the items that a function takes out of a queue, and return them."""
    cdef object seconds = timeout_of(timeout) if block else None
    cdef bytes how = _blocking(block, seconds)
    cdef list items, reply = None
    cdef GetterWait getter
    cdef Py_ssize_t i
    while True:
        getter = GetterWait.__new__(GetterWait)
        getter.prepare(session, (key,), b"queue")
        getter.looks_with = most
        try:
            reply = getter.go([*getter.request_for(function), how, *most], seconds)
            if reply is not None:
                if limits:
                    with unlimited(GRACE):  # the items are nobody's but the caller's by now
                        items = decoded(reply, session.address)
                else:
                    items = decoded(reply, session.address)
                break
        except BaseException as error:
            # Items that cannot be unpickled are taken all the same: else nobody gets the next.
            if reply is None or not isinstance(error, Exception):
                getter.undo()
            raise
        session.life.is_seen(getter.id)
        seconds = getter.left()  # the session was taken for dead
    for i in range(1, len(reply)):
        if reply[i].startswith(b"R"):
            release(session, key, (reply[i],))
    return items


cdef list decoded(list reply, object address):
    """The items in a reply, whose first value is none."""
    cdef Py_ssize_t i
    cdef list items = []
    for i in range(1, len(reply)):
        items.append(decode(reply[i], address))
    return items


def get_many(session, bytes key, max_items, block=True, timeout=None):
    most = min(operator.index(max_items), MOST)
    if most < 1:
        raise ValueError(f"max_items={max_items!r}: 1 or more is needed")
    return take_items(session, key, b"queue_get_many", block, timeout, (most,))


def get_nowait(session, key):
    return get(session, key, False)


def join(session, key):
    while SeldomWait(session, key, b"join").begin(b"queue_join") is None:
        pass  # the session was taken for dead


def task_done(session, key):
    session.function(b"queue_task_done", key)


def qsize(session, key):
    return int(session.function(b"queue_size", key)[0])


def empty(session, key):
    return qsize(session, key) == 0


def full(session, key):
    size, most, _ = session.function(b"queue_size", key)
    return bool(0 < most <= size)


def shutdown(session, key, immediate=False):
    release(session, key, session.function(b"queue_shutdown", key, 1 if immediate else 0))


def make_queue(session, key, maxsize=0):
    # No queue gets longer than that; and one is as full at 2.5 as at 3.
    make(session, key, "Queue", b"max", math.ceil(max(-MOST, min(maxsize, MOST))))


def show_queue(session, key):
    size, most, down = session.function(b"queue_size", key)
    bound = f"/{most}" if most > 0 else ""
    state = f"size={size}{bound}" + ", shut down" * down
    return f"<fastmgr.Queue at {shown_at(key)}: {state}>"


for _typeid in ("Queue", "JoinableQueue"):
    declare(
        _typeid, create=make_queue, put=put, put_nowait=put_nowait, put_many=put_many, get=get,
        get_nowait=get_nowait, get_many=get_many, join=join, task_done=task_done,
        qsize=qsize, empty=empty, full=full, show=show_queue,
    )  # fmt: skip
    if hasattr(queue, "ShutDown"):
        declare(_typeid, shutdown=shutdown)
