"""Where named objects are kept, servers, and a peer that speaks to them by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import KEY, FastPeer, ProbeManager, poll, settle
from support.names import started
from support.servers import RawManager, SeenServer, choose_poller, conns_of, hooked

from fastmgr.managers import Server


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    mask = os.umask(0o022)  # what others could write to is refused
    yield str(tmp_path / "arena")
    os.umask(mask)


@pytest.fixture(params=["memory", "file"])
def either(request: pytest.FixtureRequest, path: str) -> Iterator[Any]:
    with started(path if request.param == "file" else True) as manager:
        yield manager


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that does not serve: its functions are called by the test."""
    server = Server(ProbeManager._registry, None, KEY, "pickle")
    yield server
    server.listener.close()


@pytest.fixture(scope="module", params=["", "poll"], ids=["default", "poll"])
def raw_manager(request: pytest.FixtureRequest) -> Iterator[RawManager]:
    manager = RawManager(authkey=KEY)
    manager.start(choose_poller, (request.param,))
    yield manager
    manager.shutdown()


@pytest.fixture
def peer(raw_manager: RawManager) -> Iterator[FastPeer]:
    with FastPeer(raw_manager.address) as peer:
        yield peer
    settle(raw_manager, 0)


@pytest.fixture(scope="module")
def serving() -> Iterator[Any]:
    """A server that serves in a thread of this process."""
    with hooked(SeenServer):
        # Tests add types of their own, which the manager's class must not have afterwards.
        SeenServer.last.registry = dict(SeenServer.last.registry)
        yield SeenServer.last


@pytest.fixture
def peer_here(serving: Any) -> Iterator[FastPeer]:
    """The one peer of `serving` that speaks by hand, so its connection can be looked at."""
    poll(lambda: not conns_of(serving), "no other peer is there")
    with FastPeer(serving.address) as peer:
        yield peer
