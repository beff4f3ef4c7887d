"""Fixtures of the tests of shared types."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import KEY, valkeys
from support.carried import GHOSTS, SOURCE, Client
from support.places import Managed, OnValkey, ParkManager, Pinned, Place, Ringed, Stock

import fastmgr


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


def _on(kind: str) -> Iterator[OnValkey]:
    with valkeys.server(kind) as server:
        manager = fastmgr.SyncManager(address=server.url(ns="unit"))
        manager.connect()
        place = OnValkey(manager)
        yield place
        place.observer.shutdown()


@pytest.fixture(scope="module")
def on_valkey() -> Iterator[OnValkey]:
    yield from _on("valkey")


@pytest.fixture(scope="module")
def on_redis() -> Iterator[OnValkey]:
    yield from _on("redis")


@pytest.fixture(
    params=["threads", "manager", "pinned", "stock", "ringed", "polling", "on_valkey", "on_redis"]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param.startswith("on_"):
        there: OnValkey = request.getfixturevalue(request.param)
        there.await_parked(0)
        yield there
        there.await_parked(0)
        return
    kinds = {
        "manager": Managed, "pinned": Pinned, "stock": Stock, "ringed": Ringed, "polling": Managed,
    }  # fmt: skip
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
