"""The methods of queues."""

from __future__ import annotations

import math
import queue
from typing import Any

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


def get(session: Any, key: bytes, block: Any = True, timeout: Any = None) -> Any:
    seconds = timeout_of(timeout) if block else None
    how = _blocking(block, seconds)
    while True:
        getter = GetterWait(session, key, b"queue")
        try:
            reply = getter.begin(b"queue_get", how, timeout=seconds)
        except BaseException:
            getter.undo()
            raise
        if reply is not None:
            return take_out(session, key, reply[1])
        session.life.is_seen(getter.id)
        seconds = getter.left()  # the session was taken for dead


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
        _typeid, create=make_queue, put=put, put_nowait=put_nowait, get=get,
        get_nowait=get_nowait, join=join, task_done=task_done, qsize=qsize, empty=empty, full=full,
        show=show_queue,
    )  # fmt: skip
    if hasattr(queue, "ShutDown"):
        declare(_typeid, shutdown=shutdown)
