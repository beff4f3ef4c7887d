"""The fixtures of the interop suite: peers of every Python found, servers of every kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from multiprocessing import current_process
from pathlib import Path

import pytest

# By these names stock processes import what is there, too: they have no other way to it.
sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "interop"))

pytest.register_assert_rewrite("scenarios")

from peers import ADDRESSES, KEY, FastServers, Peer  # noqa: E402
from support import interpreters  # noqa: E402

INTERPRETERS = interpreters()


@pytest.fixture(scope="session", params=list(INTERPRETERS.items()), ids=lambda item: item[0])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    peer = Peer(*request.param)
    yield peer
    peer.close()


@pytest.fixture(scope="session", params=list(ADDRESSES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def process_key() -> Iterator[None]:
    """The key of this process while the module runs, and of the servers it starts."""
    before = current_process().authkey
    current_process().authkey = KEY.encode()
    yield
    current_process().authkey = before


@pytest.fixture(scope="module")
def fast_servers(process_key: None) -> Iterator[FastServers]:
    servers = FastServers()
    yield servers
    servers.close()
