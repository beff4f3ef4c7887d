"""What tests of one-way calls share: users' classes, and what failures tell."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing import managers as stdlib
from typing import Any

import pytest

from fastmgr import OnewayError
from support import DEADLINE, ProbeManager

GATE = threading.Event()


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


class Unloadable(Exception):
    """It pickles; but its only argument is not what its class is made with."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


class Ours(Exception):
    """An exception of a user's."""


class Journal:
    """A class of a user's: its calls are served by a thread."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.calls = 0

    def note(self, value: Any = None, **more: Any) -> Any:
        self.notes.append({"value": value, **more} if more else value)
        return value

    def all(self) -> list[Any]:
        return self.notes

    def page(self) -> list[Any]:
        """Shared in its turn."""
        return self.notes

    def work(self) -> None:
        for _ in range(200):
            pass
        self.calls += 1

    def served(self) -> int:
        return self.calls

    def fail(self, text: str) -> None:
        raise Ours(text)

    def fail_unpicklable(self) -> None:
        raise Unpicklable

    def fail_unloadable(self) -> None:
        raise Unloadable("a", "b")

    def fail_page(self) -> None:
        raise Ours("no page")

    def thread(self) -> int:
        return threading.get_ident()

    def await_gate(self) -> None:
        assert GATE.wait(DEADLINE)


class Gate:
    """What `Journal.await_gate` waits for."""

    def open(self) -> None:
        GATE.set()

    def shut(self) -> None:
        GATE.clear()


class Census:
    """Looks at the waiters from within the server."""

    def parked(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        waiters = [conn.waiter for conn in list(server._engine.conns.values())]
        return sum(waiter is not None and not waiter.finished for waiter in waiters)


class OnewayManager(ProbeManager):
    """With what these tests have in the server."""


class StockManager(stdlib.SyncManager):
    """The same, of the stdlib's."""


for kind in (OnewayManager, StockManager):
    kind.register("Journal", Journal, method_to_typeid={"page": "list", "fail_page": "list"})
    kind.register("Gate", Gate)
    kind.register("Census", Census)


def failure_of(function: Callable[..., Any], *args: Any) -> OnewayError:
    """What a call tells of the one-way calls before it."""
    with pytest.raises(OnewayError) as caught:
        function(*args)
    return caught.value


def cause_of(error: OnewayError) -> BaseException:
    assert error.__cause__ is not None
    return error.__cause__
