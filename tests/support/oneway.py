"""What tests of one-way calls share: users' classes, and what failures tell."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import managers as stdlib
from typing import Any

import pytest

from fastmgr import OnewayError, managers
from support import DEADLINE, KEY, ProbeManager, in_thread, poll
from support.managers import Census

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


ENDED: list[str] = []


class Marked(Exception):
    """Notes on which thread of the server it is destroyed."""

    def __del__(self) -> None:
        ENDED.append(threading.current_thread().name)


class Item:
    """The same; the server unpickles it, for its pickle names multiprocessing."""

    def __reduce__(self) -> Any:
        return item, ("multiprocessing",)

    def __del__(self) -> None:
        ENDED.append(threading.current_thread().name)


def item(_note: str) -> Item:
    return Item()


class Marking:
    def fail(self) -> None:
        raise Marked

    def fail_with(self, value: Any) -> None:
        raise ValueError("of mine")

    def ended(self) -> list[str]:
        gc.collect()
        return list(ENDED)

    def begin(self) -> None:
        ENDED.clear()


THE_JOURNAL = Journal()


def the_journal() -> Journal:
    return THE_JOURNAL


OnewayManager.register("Marking", Marking)


OnewayManager.register("TheJournal", the_journal)


def posted(manager: OnewayManager, function: Callable[[], Any]) -> Future[Any]:
    """`function()` in a thread of its own, once one of its calls waits in the server."""
    census = manager.Census()
    before = in_thread(census.parked)
    with contextlib.ExitStack() as stack:
        executor = ThreadPoolExecutor(1)
        stack.callback(executor.shutdown, wait=False)
        future = executor.submit(function)
        poll(lambda: census.parked() == before + 1, "the call waits")
    return future


def exposing_everything(proxy: Any) -> Any:
    """A proxy of the same object of which nothing is known here; `proxy` has to outlive it."""
    return managers.BaseProxy(proxy._token, "pickle", authkey=KEY, incref=False)
