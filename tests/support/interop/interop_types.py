"""A user's module, importable at both ends: its classes, its proxies, its manager.

At the end with fastmgr it is built on fastmgr, in a peer on the stdlib. Nothing else differs,
and what goes over the wire must name these classes in a way that both ends understand.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator
from multiprocessing import connection
from typing import Any

try:
    from fastmgr import managers
except ImportError:  # a peer: it has nothing but the stdlib
    from multiprocessing import managers  # type: ignore[no-redef]


class InteropError(Exception):
    """An exception of the user's own, with arguments that have to arrive."""


class Journal:
    """Proxied automatically: all public methods."""

    def __init__(self, total: int = 0):
        self._total = total
        self._mutex = threading.Lock()

    def add(self, number: int = 1, *, times: int = 1) -> int:
        with self._mutex:
            self._total += number * times
            return self._total

    def total(self) -> int:
        return self._total

    def echo(self, *args: Any, **kwds: Any) -> Any:
        return [list(args), kwds]

    def fail(self, text: str) -> None:
        raise InteropError(text, 42)

    def unserializable(self) -> Any:
        return lambda: None

    def thread_name(self) -> str:
        return threading.current_thread().name

    def _private(self) -> str:
        return "not for proxies"


class Book:
    def __init__(self, title: str, pages: int):
        self._title = title
        self._pages = pages

    def title(self) -> str:
        return self._title

    def rename(self, title: str) -> None:
        self._title = title

    def __len__(self) -> int:
        return self._pages


class BookProxy(managers.BaseProxy):
    """A proxy type written by hand."""

    _exposed_ = ("title", "rename", "__len__")

    def title(self) -> str:
        return self._callmethod("title")

    def rename(self, title: str) -> None:
        self._callmethod("rename", (title,))

    def __len__(self) -> int:
        return self._callmethod("__len__")

    @property
    def local_only(self) -> str:
        return "from the proxy class"


class Shelf:
    """Methods whose results stay in the server."""

    def __init__(self, *titles: str):
        self._books = [Book(title, 100 + i) for i, title in enumerate(titles)]

    def book(self, index: int) -> Book:
        return self._books[index]

    def titles(self) -> Generator[str, None, None]:
        return (book.title() for book in self._books)

    def count(self) -> int:
        return len(self._books)


def countdown(start: int) -> Generator[Any, Any, None]:
    """A generator: `send` answers, `throw` ends."""
    while start:
        got = yield start
        start = start - 1 if got is None else got


JOURNAL = Journal(1000)
BOX: dict[str, Any] = {}


def the_journal() -> Journal:
    return JOURNAL


def the_box() -> dict[str, Any]:
    """One dict for all clients of a server."""
    return BOX


def square(number: int) -> int:
    return number * number


def wait_and_square(number: int, gate: str) -> int:
    """The square, when there is a file `gate`."""
    end = time.monotonic() + 30
    while not os.path.exists(gate) and time.monotonic() < end:
        time.sleep(0.001)
    return number * number


def refuse(number: int) -> int:
    raise InteropError("refused", number)


class InteropManager(managers.SyncManager):
    """What both ends agree on."""


InteropManager.register("Journal", Journal)
InteropManager.register("Guarded", Journal, exposed=("add",))
InteropManager.register("the_journal", the_journal)
InteropManager.register("the_box", the_box, proxytype=managers.DictProxy)
InteropManager.register("countdown", countdown, proxytype=managers.IteratorProxy)
InteropManager.register("Shelf", Shelf, method_to_typeid={"book": "Book", "titles": "Iterator"})
InteropManager.register("Book", proxytype=BookProxy, create_method=False)
InteropManager.register("new_book", Book, proxytype=BookProxy)


# A serializer of the user's own


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


class JsonListener(connection.Listener):
    def accept(self) -> Any:
        return connection.ConnectionWrapper(super().accept(), _dumps, json.loads)  # type: ignore


def JsonClient(*args: Any, **kwds: Any) -> Any:
    conn = connection.Client(*args, **kwds)
    return connection.ConnectionWrapper(conn, _dumps, json.loads)  # type: ignore


def add_json() -> None:
    """Offer the serializer "json" in this process."""
    managers.listener_client["json"] = (JsonListener, JsonClient)
