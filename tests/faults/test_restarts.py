"""Servers that end and come back at their address, and connections that are cut on the way."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, connected, in_thread, poll
from support.forwarding import Relay

import fastmgr
from fastmgr.client.sessions import retire_sessions

pytestmark = pytest.mark.timeout(120)


class Service:
    """A server at one address, with a file, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "socket")
        self.file = folder / "arena"
        self.start()

    def start(self) -> None:
        self.manager = ProbeManager(self.address, KEY, arena=self.file)
        self.manager.start()

    def restart(self) -> None:
        self.manager._process.kill()
        self.manager._process.join(DEADLINE)
        self.start()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.manager.shutdown()


@pytest.fixture(params=["unix", "tcp"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[ProbeManager]:
    """A manager that has connected."""
    with contextlib.ExitStack() as stack:
        address: Any = service.address
        if request.param == "tcp":
            address = stack.enter_context(Relay(address)).address
        yield connected(address)
        retire_sessions(address)


def test_named_objects_are_found_again(service: Service, client: ProbeManager) -> None:
    hits, value = client.Counter(name="hits"), client.Value("d", 1.5, name="value")
    values = client.Array("i", [1, 2], name="values")
    hits.incr()
    pickled = pickle.dumps(hits)
    for number in range(2, 4):
        service.restart()
        assert hits.incr() == number
        assert (value.value, list(values), pickle.loads(pickled).value) == (1.5, [1, 2], number)
    service.restart()
    assert client.dict(a=1).copy() == {"a": 1}, "the manager goes on, too"


def test_others_say_that_the_server_was_restarted(service: Service, client: ProbeManager) -> None:
    kept, queue, lock = client.dict(a=1), client.Queue(), client.Lock()
    for _ in range(40):
        assert kept["a"] == 1  # without a call, in the end
    lock.acquire()
    pickled = pickle.dumps(kept)
    service.restart()
    for call in (lambda: kept["a"], queue.qsize, lock.locked, lambda: pickle.loads(pickled)["a"]):
        with pytest.raises(fastmgr.ServerRestarted, match="make it anew") as raised:
            call()
        assert raised.value.applied is False
        assert "Traceback" not in str(raised.value)
        assert repr(client.address) in str(raised.value)
    with pytest.raises(fastmgr.LockLost, match="restarted"):
        lock.release()


def test_server_that_is_away(service: Service, client: ProbeManager) -> None:
    hits = client.Counter(name="hits")
    hits.incr()
    service.manager._process.kill()
    service.manager._process.join(DEADLINE)
    for _ in range(2):
        with pytest.raises((OSError, EOFError)) as raised:
            hits.incr()
        assert raised.value.applied in (False, None)  # type: ignore[union-attr]
    service.start()
    assert hits.incr() == 2


def test_exact_counts_under_restarts(service: Service, client: ProbeManager) -> None:
    """What is said to have been made was made once; what is unknown once or not at all."""
    over, made, unknown = threading.Event(), [0] * 3, [0] * 3
    hits = client.Counter(name="hits")

    def work(number: int) -> None:
        while not over.is_set():
            try:
                hits.incr()
                made[number] += 1
            except (OSError, EOFError) as error:
                unknown[number] += error.applied is None  # type: ignore[union-attr]

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(made))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            enough = sum(made) + 200
            poll(lambda enough=enough: sum(made) >= enough, "they have counted on")
            service.restart()
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    total = in_thread(lambda: service.manager.Counter(name="hits").value)
    assert sum(made) <= total <= sum(made) + sum(unknown)


@pytest.mark.parametrize("dialect", ["fast", "stock"])
@pytest.mark.parametrize("up", [True, False], ids=["request", "reply"])
def test_call_that_is_cut_anywhere(dialect: str, up: bool) -> None:
    kind: Any = ProbeManager if dialect == "fast" else stock.SyncManager
    with kind(authkey=KEY) as server, Relay(server.address) as relay:
        connected(relay.address)
        kept = server.list()  # which holds it: a session ends with its last connection
        token = fastmgr.Token("list", relay.address, kept._token.id)
        values = fastmgr.ListProxy(token, "pickle", authkey=KEY)
        values.append(0)
        before = relay.passed[up]
        values.append(0)
        size = relay.passed[up] - before
        least = most = 2
        for passed in range(size + 1):
            len(values)
            relay.allow(**{"up" if up else "down": passed})
            try:
                values.append(0)
                least += 1
                most += 1
            except (OSError, EOFError) as error:
                most += error.applied is None  # type: ignore[union-attr]
            relay.allow()
            assert least <= len(values) <= most
            least = most = len(values)
        retire_sessions(relay.address)
