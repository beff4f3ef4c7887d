"""Servers that end and come back at their address, and connections that are cut on the way."""

from __future__ import annotations

import contextlib
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, Script, connected, in_thread, poll
from support.forwarding import Relay
from support.processes import say

import fastmgr
from fastmgr.client.sessions import retire_sessions
from fastmgr.monitor import ClientReport

pytestmark = pytest.mark.timeout(120)


class Service:
    """A server at one address, with or without a file, which can be killed and started again."""

    def __init__(self, folder: Path, arena: bool = False) -> None:
        self.address = str(folder / "socket")
        self.arena = arena or folder / "arena"
        #: A manager that goes ends this process's sessions with its address.
        self.ended: list[ProbeManager] = []
        self.start()

    def start(self) -> None:
        self.manager = ProbeManager(self.address, KEY, arena=self.arena)
        self.manager.start()

    def restart(self) -> None:
        self.manager._process.kill()
        self.manager._process.join(DEADLINE)
        self.ended.append(self.manager)
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


@pytest.mark.parametrize("forgotten", [False, True])
def test_named_object_that_is_gone_until_it_is_made_again(tmp_path: Path, forgotten: bool) -> None:
    """Where no file keeps it the error says what has happened, and what makes the proxy work."""
    service = Service(tmp_path, arena=True)
    client = connected(service.address)
    hits, value = client.Counter(name="hits"), client.Value("d", 1.5, name="value")
    pickled = pickle.dumps(hits)
    service.restart()
    if forgotten:  # then the server cannot tell whether it has had the name
        client.Counter(name="another")
        assert client.forget("another")
    for call in (hits.incr, lambda: value.value, lambda: pickle.loads(pickled).value):
        with pytest.raises(fastmgr.ServerRestarted, match=r"was restarted.*make it anew") as raised:
            call()
        assert re.search(r"manager\.(Counter|Value)\(\.\.\., name=", str(raised.value))
        assert ("forgotten" in str(raised.value), raised.value.applied) == (forgotten, False)
    in_thread(lambda: client.Counter(name="hits").incr())
    assert (hits.incr(), pickle.loads(pickled).value) == (2, 2)
    service.manager.shutdown()


def test_named_object_that_is_made_again_is_held(tmp_path: Path) -> None:
    """Else the server would give its cell, in which the client counts, to another object."""
    service = Service(tmp_path, arena=True)
    client = connected(service.address)
    hits = client.Counter(name="hits")
    service.restart()
    assert client.names() == []  # the client has met a server that does not know the object
    with Script(make_and_forget, service.address) as script:
        assert script.line() == "made"
        assert hits.incr() == 1
        script.tell()
        assert script.line() == "forgotten"
    poll(lambda: len(clients(client)) == 1, "the other client has gone")
    assert (hits.incr(), clients(client)[0].references) == (2, 1)
    service.manager.shutdown()


def make_and_forget(address: str) -> str:
    client = connected(address)
    counter = client.Counter(name="hits")
    say("made")
    sys.stdin.readline()
    del counter
    client.forget("hits")
    return "forgotten"


def clients(client: ProbeManager) -> list[ClientReport]:
    """The clients that hold something, or call: not who asks."""
    with fastmgr.Monitor(client.address, authkey=KEY) as monitor:
        return [one for one in monitor.report().clients if one.calls or one.references]


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
