"""The methods of queues."""

from __future__ import annotations

import math
import operator
import queue
from collections.abc import Iterable
from typing import Any

from fastmgr.client.limits import GRACE, unlimited
from fastmgr.engines.valkey.errors import ReplyError, exception_of
from fastmgr.engines.valkey.references import release, store, take_out
from fastmgr.engines.valkey.waiting import (
    MOST,
    SeldomWait,
    Wait,
    declare,
    make,
    shown_at,
    timeout_of,
)  # fmt: skip

__all__: list[str] = []


class GetterWait(Wait):
    """A call that waits for an item."""

    def granted(self, token: bytes) -> list[Any]:
        """Take the item, or learn that there will be none."""
        reply: list[Any] = self.persist(b"_look")
        return reply

    def end(self, reply: list[Any]) -> list[Any] | None:
        return reply if reply[0] == 1 else None


class PutterWait(Wait):
    """A call that waits for room for its item."""

    is_withdrawn = False

    def withdraw(self) -> None:
        request = self.request(b"put_withdraw")
        self.is_withdrawn = self.session.life.withdraw(request) == [0]

    def granted(self, token: bytes) -> list[Any]:
        if token == b"S":  # the queue has been shut down
            self.persist(b"_look")
        return [1]

    def end(self, reply: list[Any]) -> list[Any] | None:
        return reply if reply[0] == 1 else None

    def settle(self) -> list[Any] | None:
        return self.end(self.persist(b"_settle"))


class ManyPutterWait(PutterWait):
    """A call that waits for room for several items, each in turn."""

    #: How many were put before the session was taken for dead, or the caller interrupted.
    number = 0

    def withdraw(self) -> None:
        reply = self.session.life.withdraw(self.request(b"put_withdraw"))
        if isinstance(reply, list) and reply[0] == 0:
            self.is_withdrawn = True
            self._note(reply)

    def granted(self, token: bytes) -> list[Any]:
        reply: list[Any] = self.persist(b"_look") if token == b"S" else [1]
        return reply

    def end(self, reply: list[Any]) -> list[Any] | None:
        if reply[0] in (1, 4):
            return reply
        self._note(reply)
        return None

    def _note(self, reply: list[Any]) -> None:
        self.number = reply[1] if len(reply) > 1 else 0


def _blocking(block: Any, timeout: Any) -> bytes:
    """Return how a function of queues is told whether to wait."""
    if not block:
        return b"0"
    return b"-" if timeout is not None and timeout < 0 else b"1"


def put(session: Any, key: bytes, item: Any, block: Any = True, timeout: Any = None) -> None:
    seconds = timeout_of(timeout) if block else None
    how = _blocking(block, seconds)
    data = store(session, key, item)
    while True:
        putter = PutterWait(session, key, b"put")
        try:
            reply = putter.begin(b"queue_put", how, data, timeout=seconds)
        except BaseException:
            if putter.answered or putter.is_withdrawn:
                release(session, key, (data,))  # else nobody knows whether the item is there
            raise
        if reply is not None:
            return
        session.life.is_seen(putter.id)
        seconds = putter.left()  # the session was taken for dead


def put_nowait(session: Any, key: bytes, item: Any) -> None:
    put(session, key, item, False)


def put_many(
    session: Any, key: bytes, items: Iterable[Any], block: Any = True, timeout: Any = None
) -> None:
    seconds = timeout_of(timeout) if block else None
    how = _blocking(block, seconds)
    left: list[bytes] = []
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
                release(session, key, left[putter.number :])
            raise
        if reply is None:
            del left[: putter.number]
            session.life.is_seen(putter.id)
            seconds = putter.left()  # the session was taken for dead
            continue
        if reply != [1]:
            del left[: reply[1]]
            if left or reply[0] == 4:
                release(session, key, left)
                raise _not_all_put(reply[0] == 4, all_of_them - len(left))
        return


def _not_all_put(is_shut_down: bool, number: int) -> Exception:
    error = exception_of(ReplyError(b"FM SHUTDOWN" if is_shut_down else b"FM FULL"))
    error.put = number  # type: ignore[attr-defined]
    return error


def get(session: Any, key: bytes, block: Any = True, timeout: Any = None) -> Any:
    reply = _got(session, key, b"queue_get", block, timeout)
    with unlimited(GRACE):  # the item is nobody's but the caller's by now
        return take_out(session, key, reply[1])


def _got(
    session: Any, key: bytes, function: bytes, block: Any, timeout: Any, *most: int
) -> list[Any]:
    """Return the reply of a function that takes items, after waiting for it."""
    seconds = timeout_of(timeout) if block else None
    how = _blocking(block, seconds)
    while True:
        getter = GetterWait(session, key, b"queue")
        getter.looks_with = most
        try:
            reply = getter.begin(function, how, *most, timeout=seconds)
        except BaseException:
            getter.undo()
            raise
        if reply is not None:
            return reply
        session.life.is_seen(getter.id)
        seconds = getter.left()  # the session was taken for dead


def get_many(
    session: Any, key: bytes, max_items: Any, block: Any = True, timeout: Any = None
) -> list[Any]:
    most = min(operator.index(max_items), MOST)
    if most < 1:
        raise ValueError(f"max_items={max_items!r}: 1 or more is needed")
    _, *items = _got(session, key, b"queue_get_many", block, timeout, most)
    with unlimited(GRACE):
        return [take_out(session, key, item) for item in items]


def get_nowait(session: Any, key: bytes) -> Any:
    return get(session, key, False)


def join(session: Any, key: bytes) -> None:
    while SeldomWait(session, key, b"join").begin(b"queue_join") is None:
        pass  # the session was taken for dead


def task_done(session: Any, key: bytes) -> None:
    session.function(b"queue_task_done", key)


def qsize(session: Any, key: bytes) -> int:
    return int(session.function(b"queue_size", key)[0])


def empty(session: Any, key: bytes) -> bool:
    return qsize(session, key) == 0


def full(session: Any, key: bytes) -> bool:
    size, most, _ = session.function(b"queue_size", key)
    return bool(0 < most <= size)


def shutdown(session: Any, key: bytes, immediate: Any = False) -> None:
    release(session, key, session.function(b"queue_shutdown", key, 1 if immediate else 0))


def make_queue(session: Any, key: bytes, maxsize: Any = 0) -> None:
    # No queue gets longer than that; and one is as full at 2.5 as at 3.
    make(session, key, "Queue", b"max", math.ceil(max(-MOST, min(maxsize, MOST))))


def show_queue(session: Any, key: bytes) -> str:
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
