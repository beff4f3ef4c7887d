"""Fixtures of the tests of shared types."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import KEY
from support.carried import GHOSTS, SOURCE, Client
from support.places import Managed, ParkManager, Pinned, Place, Stock


@pytest.fixture(scope="module")
def ghosts() -> Iterator[Any]:
    module = types.ModuleType(GHOSTS)
    sys.modules[GHOSTS] = module
    exec(SOURCE, vars(module))
    yield module
    del sys.modules[GHOSTS]


@pytest.fixture
def ghost(ghosts: Any) -> Any:
    return ghosts.Ghost("boo", [1, {"a": (2.5, None)}])


@pytest.fixture
def clients() -> Iterator[Callable[[str], Client]]:
    """Makes clients; each goes on as long as the test."""
    made: list[Client] = []

    def client(name: str) -> Client:
        made.append(Client(name))
        return made[-1]

    yield client
    for client_ in made:
        client_.thread.shutdown()


@pytest.fixture(scope="module")
def park_manager() -> Iterator[ParkManager]:
    with ParkManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def polling_manager() -> Iterator[ParkManager]:
    """Its server waits by poll(), as where there is no epoll."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMGR_POLLER", "poll")
        manager = ParkManager(authkey=KEY)
        manager.start()
    with manager:
        yield manager


@pytest.fixture(params=["threads", "manager", "pinned", "stock", "polling"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kinds = {"manager": Managed, "pinned": Pinned, "stock": Stock, "polling": Managed}
    if request.param == "threads":
        found = Place()
    else:
        name = "polling_manager" if request.param == "polling" else "park_manager"
        found = kinds[request.param](request.getfixturevalue(name))
    found.await_parked(0)
    yield found
    found.await_parked(0)
    if isinstance(found, Managed):
        found.observer.shutdown()
