"""The methods of events and barriers."""

from __future__ import annotations

import threading
import time
from typing import Any

from fastmgr.engines.valkey.values import decode, encode
from fastmgr.engines.valkey.waiting import (
    LOOK_AFTER,
    SeldomWait,
    Wait,
    counted,
    declare,
    make,
    seconds_of,
    shown_at,
    timeout_of,
)  # fmt: skip

__all__: list[str] = []

# -- events -------------------------------------------------------------------------------


def event_wait(session: Any, key: bytes, timeout: Any = None) -> bool:
    seconds = None if timeout is None else seconds_of(timeout)
    block = b"0" if seconds is not None and not seconds > 0 else b"1"
    while True:
        wait = SeldomWait(session, key, b"event")
        granted = wait.begin(b"event_wait", block, timeout=seconds) is not None
        if granted or not wait.is_void():
            break
        seconds = wait.left()
    if not granted:
        timeout_of(seconds)
    return granted


def event_is_set(session: Any, key: bytes) -> bool:
    found = session.run([b"HGET", key, b"s"], True)
    if found is None:
        session.function(b"event_is_set", key, reads=True)  # says that it is gone
    return bool(found == b"1")


def event_set(session: Any, key: bytes) -> None:
    session.function(b"event_set", key)


def event_clear(session: Any, key: bytes) -> None:
    session.function(b"event_clear", key)


def make_event(session: Any, key: bytes) -> None:
    make(session, key, "Event", b"s", 0)


def show_event(session: Any, key: bytes) -> str:
    state = "set" if event_is_set(session, key) else "unset"
    return f"<fastmgr.Event at {shown_at(key)}: {state}>"


# -- barriers -----------------------------------------------------------------------------


class PartyWait(Wait):
    """A call that waits for the other parties of a barrier."""

    def pause(self, position: int) -> float:
        return LOOK_AFTER * 5  # the party that runs the action may die

    def wait(self, reply: list[Any]) -> list[Any] | None:
        if self.deadline is None and len(reply) > 2 and reply[2] is not None:
            self.deadline = time.monotonic() + float(reply[2])  # the barrier's own timeout
        return super().wait(reply)

    def granted(self, token: bytes) -> list[Any]:
        if token == b"B":
            self.answered = True
            raise threading.BrokenBarrierError
        index = int(token[1:])
        if token[:1] == b"A":
            return [1, index, _state(self.session, self.keys[0])[3]]
        return [1, index]


def barrier_wait(session: Any, key: bytes, timeout: Any = None) -> int:
    seconds = timeout_of(timeout)
    while True:
        party = PartyWait(session, key, b"barrier")
        reply = party.begin(b"barrier_wait", timeout=seconds)
        if not party.is_void():
            break
        seconds = party.left()
    if reply is None or len(reply) < 2:
        raise threading.BrokenBarrierError
    if len(reply) > 2:
        good = 0
        try:
            decode(reply[2], session.address)()
            good = 1
        finally:
            party.ask(b"barrier_acted", good)
    return int(reply[1])


def _state(session: Any, key: bytes) -> list[Any]:
    state: list[Any] = session.function(b"barrier_state", key)
    return state


def barrier_attribute(session: Any, key: bytes, name: str) -> Any:
    parties, waiting, broken, _ = _state(session, key)
    found = {"parties": parties, "n_waiting": waiting, "broken": bool(broken)}
    if name not in found:
        raise AttributeError(f"'Barrier' object has no attribute {name!r}")
    return found[name]


def barrier_abort(session: Any, key: bytes) -> None:
    session.function(b"barrier_end", key, 1)


def barrier_reset(session: Any, key: bytes) -> None:
    session.function(b"barrier_end", key, 0)


def make_barrier(
    session: Any, key: bytes, parties: Any, action: Any = None, timeout: Any = None
) -> None:
    if parties < 1:
        raise ValueError("parties must be > 0")
    fields: list[Any] = [b"n", counted(parties)]
    if action is not None:
        fields += [b"action", encode(action, session.address)]
    if timeout is not None:
        fields += [b"timeout", repr(seconds_of(timeout))]
    make(session, key, "Barrier", *fields)


def show_barrier(session: Any, key: bytes) -> str:
    parties, waiting, broken, _ = _state(session, key)
    state = "broken" if broken else f"waiters={waiting}/{parties}"
    return f"<fastmgr.Barrier at {shown_at(key)}: {state}>"


declare(
    "Event", create=make_event, wait=event_wait, is_set=event_is_set, set=event_set,
    clear=event_clear, show=show_event,
)  # fmt: skip
declare(
    "Barrier", create=make_barrier, wait=barrier_wait, abort=barrier_abort, reset=barrier_reset,
    attribute=barrier_attribute, show=show_barrier,
)  # fmt: skip
