"""Client processes that wait, and a server that is asked who waits."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from support import DEADLINE, KEY, Address, Probe, ProbeManager, in_thread


class Census(Probe):
    """Looks at the waiters from within the server."""

    def waiting(self) -> list[str]:
        """Who waits: the names of processes and threads, sorted."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sorted(
            conn.name
            for conn in list(server._engine.loop.conns.values())
            if conn.waiter is not None and not conn.waiter.finished
        )

    def crowd(self) -> int:
        """How many wait; no names, for speed."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sum(conn.waiter is not None for conn in list(server._engine.loop.conns.values()))

    def looked_at(self, name: str) -> int:
        """How many objects the server will look at when that client dies."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        for conn in list(server._engine.loop.conns.values()):
            if conn.name == name:
                return len(conn.session.parked)
        raise LookupError(name)

    def connections(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return len(server._engine.loop.conns)


class Spinner:
    def spin(self, seconds: float) -> None:
        """Keep the interpreter's lock as busy as it can be."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))


BOARD: dict[str, Any] = {}


def the_board() -> dict[str, Any]:
    """One dict for all clients of a server."""
    return BOARD


class WaiterManager(ProbeManager):
    """With what these tests have in the server."""


WaiterManager.register("Census", Census)
WaiterManager.register("Spinner", Spinner)
WaiterManager.register("the_board", the_board, exposed=("__getitem__", "__setitem__"))


def manager_at(address: Address) -> WaiterManager:
    manager = WaiterManager(
        address=address if isinstance(address, str) else tuple(address), authkey=KEY
    )
    manager.connect()
    return manager


def waiting(census: Any) -> list[str]:
    # In a thread of its own: asking a user's class changes how a connection is served.
    return in_thread(census.waiting)


class Worker:
    """A client process that does one thing; it says when it has begun and what came of it."""

    def __init__(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        self.name = name
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=work, args=(theirs, function, *args), name=name, daemon=True
        )
        self.process.start()
        theirs.close()
        assert self.said() == "ready"

    def said(self) -> Any:
        assert self.pipe.poll(DEADLINE), f"{self.name} says nothing"
        return self.pipe.recv()

    def kill(self) -> None:
        assert self.process.is_alive()
        self.process.kill()
        self.process.join(DEADLINE)
        assert self.process.exitcode == -signal.SIGKILL

    def end(self) -> None:
        """Let it end, as it does by itself."""
        self.pipe.send("end")
        self.process.join(DEADLINE)
        assert self.process.exitcode == 0


def work(pipe: Connection, function: Callable[..., Any], *args: Any) -> None:
    pipe.send("ready")
    pipe.send(function(*args))
    pipe.recv()


def call(obj: Any, name: str, *args: Any) -> Any:
    return getattr(obj, name)(*args)


def pin_and_call(sleeper: Any, obj: Any, name: str, *args: Any) -> Any:
    """With a user's class called before, so that a thread of the server waits for it."""
    sleeper.echo(1)
    return call(obj, name, *args)


def sleep_at(condition: Any) -> Any:
    with condition:
        return condition.wait()


Start = Callable[..., Worker]


def take_and_give(lock: Any) -> Any:
    result = lock.acquire()
    lock.release()
    return result
