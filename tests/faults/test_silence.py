"""Peers that fall silent within a handshake: no manager and no proxy waits for ever."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import KEY, ProbeManager, in_thread
from support.forwarding import Relay

import fastmgr
from fastmgr.client.sessions import retire_sessions

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["fast", "stock"])
def served(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A manager of either kind, which serves."""
    kind: Any = ProbeManager if request.param == "fast" else stock.SyncManager
    with kind(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def relay(served: Any) -> Iterator[Relay]:
    with Relay(served.address) as relay:
        yield relay
        retire_sessions(relay.address)


def test_server_that_falls_silent_anywhere(
    served: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = served.list([1, 2])
    manager = ProbeManager(relay.address, KEY)
    manager.connect()  # from now on this process has the key for proxies of that address
    size = relay.passed[False]
    token = fastmgr.Token("list", relay.address, values._token.id)
    proxy = pickle.dumps(fastmgr.ListProxy(token, "pickle", manager))
    retire_sessions(relay.address)
    monkeypatch.setenv("FASTMGR_CONNECT_TIMEOUT", "0.3")
    relay.cuts = False
    for down in (0, 30, size - 1):
        for connects in (ProbeManager(relay.address, KEY).connect, lambda: pickle.loads(proxy)):
            relay.allow(down=down)
            with pytest.raises(TimeoutError, match="it had yet to") as raised:
                in_thread(connects)
            assert repr(relay.address) in str(raised.value)
            retire_sessions(relay.address)
    relay.allow()
    monkeypatch.delenv("FASTMGR_CONNECT_TIMEOUT")
    assert len(pickle.loads(proxy)) == 2
