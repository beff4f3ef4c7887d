"""A server that stops in order: calls under way are answered, and none is begun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, poll
from support.servers import SeenServer, hooked

from fastmgr.link.sockets import connect


class Gate:
    """An object in the server, which is a thread of the test's process."""

    entered = threading.Event()
    opened = threading.Event()

    def enter(self) -> str:
        self.entered.set()
        assert self.opened.wait(DEADLINE)
        return "passed"

    def look(self) -> bool:
        return self.opened.is_set()


class GateManager(ProbeManager):
    pass


class StockManager(stock.SyncManager):
    pass


GateManager.register("Gate", Gate)
StockManager.register("Gate")


class DrainingServer(SeenServer):
    drain_timeout = DEADLINE


@pytest.fixture(params=["fast", "stock"])
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    Gate.entered.clear()
    Gate.opened.clear()
    with hooked(DrainingServer, kind=GateManager) as manager:
        if request.param == "stock":
            other = StockManager(manager.address, KEY)
            other.connect()
            yield other
        else:
            yield manager
        Gate.opened.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def listens(address: Any) -> bool:
    try:
        connect(address, None).close()
    except OSError:
        return False
    return True


def enter(manager: Any, pool: ThreadPoolExecutor) -> Future[str]:
    """Begin a call that lasts until the gate is open."""
    gate = manager.Gate()
    call = pool.submit(gate.enter)
    assert Gate.entered.wait(DEADLINE)
    return call


def test_call_under_way_is_answered(manager: Any, pool: ThreadPoolExecutor) -> None:
    call = enter(manager, pool)
    idle = manager.Gate()
    assert not idle.look()  # its connection has a worker by now
    waiting = pool.submit(manager.Queue().get)
    server = SeenServer.last
    server.stop_event.set()
    poll(lambda: not listens(manager.address), "the server listens no more")
    with pytest.raises((EOFError, OSError)):
        while True:
            idle.look()
    assert not call.done()
    Gate.opened.set()
    assert call.result(DEADLINE) == "passed"
    with pytest.raises((EOFError, OSError)):
        waiting.result(DEADLINE)


def test_call_that_lasts_too_long_is_cut_off(manager: Any, pool: ThreadPoolExecutor) -> None:
    call = enter(manager, pool)
    SeenServer.last.drain_timeout = 0.05
    SeenServer.last.stop_event.set()
    with pytest.raises((EOFError, OSError)):
        call.result(DEADLINE)
    assert not Gate.opened.is_set()


def test_client_that_is_never_done_keeps_no_server(manager: Any) -> None:
    gate = manager.Gate()
    with pytest.raises((EOFError, OSError)):
        for number in range(10**9):
            gate.look()
            if number == 100:
                SeenServer.last.stop_event.set()
    poll(lambda: not listens(manager.address), "the server has ended")
