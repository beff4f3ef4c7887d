"""What the server of the tests of calls by mail has, and calls that bring a mailbox."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing import managers as stock
from pickle import PickleBuffer
from typing import Any

from support import ProbeManager
from support.mailboxes import AFTER, Call

FORK: Any = multiprocessing.get_context("fork")
SPAWN: Any = multiprocessing.get_context("spawn")


class Ours(Exception):
    """An exception of a user's."""


class Held:
    """Leaves its buffer to pickle, which keeps it out of the pickle if it may."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (PickleBuffer(self.data) if protocol >= 5 else bytes(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bytes(self.data) == bytes(other.data)


class Keeper:
    """A class of a user's: its calls are served by a thread."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def echo(self, value: Any) -> Any:
        return value

    def note(self, value: Any) -> int:
        self.notes.append(value)
        return len(self.notes)

    def all(self) -> list[Any]:
        return self.notes

    def fail(self, value: Any) -> None:
        raise Ours(value)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def page(self, *items: Any) -> list[Any]:
        """Shared in its turn."""
        return list(items)

    def waiters(self) -> int:
        """How many calls wait in the server."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sum(conn.waiter is not None for conn in list(server._engine.loop.conns.values()))


class MailManager(ProbeManager):
    """With what these tests have in the server."""


MailManager.register("Keeper", Keeper, method_to_typeid={"page": "list"})


class StockManager(stock.SyncManager):
    """The stdlib's, with the same class."""


StockManager.register("Keeper", Keeper)


def use(proxy: Any, times: int = 2 * AFTER) -> None:
    """Call often enough that the channel has a mailbox, if it is to have one."""
    for _ in range(times):
        proxy._callmethod("__len__")


def caught(call: Call) -> Call:
    """A call that returns what it raises."""

    def calling() -> Any:
        try:
            return call()
        except Exception as error:
            return error

    return calling
