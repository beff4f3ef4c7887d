"""The engine: its parts joined, run and stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, KEY, FastPeer, ProbeManager
from support.frames import OP_RETURN

from fastmgr._core import Engine
from fastmgr.managers import Server
from fastmgr.server.process import Workers


@pytest.fixture
def server() -> Iterator[Any]:
    server = Server(ProbeManager._registry, None, KEY, "pickle")
    yield server
    server.listener.close()


def run(engine: Engine) -> threading.Thread:
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    return thread


def test_an_engine_serves_until_it_is_stopped(server: Any) -> None:
    engine = Engine(server, server.listener, Workers(), True)
    assert not engine.loop.has_clients()
    thread = run(engine)
    with FastPeer(server.address) as peer:
        assert peer.method(peer.create("list", [1, 2]), "__len__").payload == 2
        assert engine.loop.has_clients()
        assert peer.control("dummy").op == OP_RETURN
        engine.loop.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert peer.ended()
    assert engine.disposing == 0


def test_an_engine_without_a_listener_accepts_nothing(server: Any) -> None:
    engine = Engine(server, None, Workers(), False)
    thread = run(engine)
    engine.loop.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert engine.loop.conns == {}
