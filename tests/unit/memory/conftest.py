"""A server that shares its memory, and a peer that asks for it by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import KEY, ProbeManager
from support.memory import ArenaManager
from support.peers import PassedPeer


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[ProbeManager]:
    with ArenaManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def peer(manager: ProbeManager) -> Iterator[PassedPeer]:
    with PassedPeer(manager.address) as peer:
        yield peer
