"""Managers with users' classes for the tests of one-way calls."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from support import KEY, settle
from support.oneway import OnewayManager, StockManager


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[OnewayManager]:
    with OnewayManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def stock_manager() -> Iterator[OnewayManager]:
    """A client of a server of the stdlib's."""
    gc.collect()  # a forked server would hold what is garbage here, and never drop it
    with StockManager(authkey=KEY) as server:
        client = OnewayManager(server.address, KEY)
        client.connect()
        yield client


@pytest.fixture(params=["fast", "stock"])
def any_manager(request: pytest.FixtureRequest) -> OnewayManager:
    name = "shared_manager" if request.param == "fast" else "stock_manager"
    found: OnewayManager = request.getfixturevalue(name)
    settle(found, 0)
    return found


@pytest.fixture
def own_manager() -> Iterator[OnewayManager]:
    with OnewayManager(authkey=KEY) as manager:
        yield manager
