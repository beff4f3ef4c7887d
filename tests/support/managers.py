"""Managers of tests, and what their servers offer."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastmgr
from support.processes import stopped
from support.sockets import Address, tcp_options
from support.waiting import in_thread, poll

KEY = b"a key of these tests"


def count_behind_an_acquire(lock: Any, counts: Any, way: str) -> None:
    """Send an `acquire` and, without waiting for it, what is to be done with the lock.

    Parameters
    ----------
    way : str
        By a ``"pipeline"``, or by calls that are one-way.
    """
    if way == "pipeline":
        with fastmgr.Pipeline(lock._session_of()) as pipe:
            pipe(lock).acquire()
            pipe(counts).incr("n")
            pipe(lock).release()
    else:
        fastmgr.oneway(lock).acquire()
        fastmgr.oneway(counts).incr("n")
        lock.release()


class Tracked:
    """Objects that count themselves."""

    alive = 0

    def __init__(self) -> None:
        Tracked.alive += 1

    def __del__(self) -> None:
        Tracked.alive -= 1

    def ping(self) -> str:
        return "pong"


class Probe:
    """Looks at the server process from within."""

    def tracked(self) -> int:
        gc.collect()
        return Tracked.alive

    def cpu(self) -> float:
        return time.process_time()

    def descriptors(self) -> int:
        return len(os.listdir("/dev/fd"))

    def threads(self) -> int:
        tasks = Path("/proc/self/task")
        return len(os.listdir(tasks)) if tasks.exists() else threading.active_count()

    def tcp_options(self, address: Address) -> list[tuple[bool, bool]]:
        return tcp_options(address)

    def sessions(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return len(server.table.sessions)


class Sleeper:
    """A user's class with a slow method."""

    def echo(self, value: object) -> object:
        return value

    def slow(self, seconds: float, value: object) -> object:
        time.sleep(seconds)
        return value


class ProbeManager(fastmgr.SyncManager):
    """SyncManager's types, and those above."""


ProbeManager.register("Tracked", Tracked)
ProbeManager.register("Probe", Probe)
ProbeManager.register("Sleeper", Sleeper)


def connected(address: Address, key: bytes = KEY) -> ProbeManager:
    """A client of the server at `address`."""
    place = address if isinstance(address, str) else tuple(address)
    manager = ProbeManager(address=place, authkey=key)
    manager.connect()
    return manager


def handle_of(proxy: Any) -> int:
    return int(proxy._token.id, 16)


@contextlib.contextmanager
def manager_without_arena(kind: type[ProbeManager] = ProbeManager) -> Iterator[Any]:
    """A manager with which this process works through the server alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMGR_ARENA", "off")
        manager = kind(authkey=KEY)
        manager.start()
        kept = manager.list()  # and with it the session, which has looked at the variable by now
        len(kept)
    try:
        yield manager
    finally:
        del kept
        manager.shutdown()


def locally(manager: Any, function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function that gets on without the server."""
    with stopped(manager._process.pid):
        return in_thread(function, *args)


def hide_server(server: Any) -> None:
    """Wait until `server` serves in a thread, and let this process not pass for a server's."""
    here: Any = multiprocessing.current_process()
    poll(lambda: getattr(here, "_manager_server", None) is server, "the server serves")
    here._manager_server = None  # proxies would take the server for theirs


def references(manager: ProbeManager) -> dict[str, int]:
    """The counts of the server, by ident."""
    found = re.findall(r"^  (\w+):       refcount=(\d+)$", manager._debug_info(), re.MULTILINE)
    return {ident: int(count) for ident, count in found}


class Census:
    """Looks at the waiters from within the server."""

    def parked(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        waiters = [conn.waiter for conn in list(server._engine.loop.conns.values())]
        return sum(waiter is not None and not waiter.finished for waiter in waiters)
