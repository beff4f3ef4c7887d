"""Values that the server keeps unread, and users' classes that look at them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from support import DEADLINE, ProbeManager

# Of a module that only the client has.
GHOSTS = "a_module_that_only_the_client_has"
SOURCE = """
class Ghost:
    def __init__(self, name, body=None):
        self.name, self.body = name, body

    def __eq__(self, other):
        return isinstance(other, Ghost) and (self.name, self.body) == (other.name, other.body)

    def __hash__(self):
        return hash(self.name)
"""


class Counted:
    """Counts how often it is unpickled in a process, and looks at what it is compared with."""

    loads: ClassVar[int] = 0

    def __init__(self, number: int, body: Any = None) -> None:
        self.number, self.body = number, body

    def __setstate__(self, state: dict[str, Any]) -> None:
        Counted.loads += 1
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self.number == other.number

    def __lt__(self, other: Counted) -> bool:
        return self.number < other.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __add__(self, other: Any) -> Any:
        return self.number + other


class Slow(Counted):
    """Its unpickling takes until somebody opens the gate of the process."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        Gate.reached.release()
        Gate.opened.wait(DEADLINE)


class Gate:
    """What `Slow` values wait for where they are unpickled."""

    reached = threading.Semaphore(0)
    opened = threading.Event()

    def open(self) -> None:
        Gate.opened.set()

    def close(self) -> None:
        Gate.opened.clear()
        while Gate.reached.acquire(False):
            pass

    def await_somebody(self) -> bool:
        return Gate.reached.acquire(timeout=DEADLINE)


Gate.opened.set()  # in a client nobody waits


class Box:
    def __init__(self, *inside: Any) -> None:
        self.inside = inside


class Insight:
    """Looks at the server from within."""

    def loads(self) -> int:
        return Counted.loads

    def modules(self) -> bool:
        return GHOSTS in sys.modules

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate()]


class Judge:
    """A user's class."""

    def are_one(self, a: Any, b: Any, **kwds: Any) -> bool:
        return a is b

    def kinds(self, *args: Any, **kwds: Any) -> list[str]:
        return [type(value).__name__ for value in (*args, *kwds.values())]


class CarriedManager(ProbeManager):
    """With what these tests have in the server."""


CarriedManager.register("Insight", Insight)
CarriedManager.register("Judge", Judge)
CarriedManager.register("Gate", Gate)


class Client:
    """A client whose calls the loop can serve: it never calls a class of a user's."""

    def __init__(self, name: str) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def start(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self.thread.submit(function, *args)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.start(function, *args).result(DEADLINE)
