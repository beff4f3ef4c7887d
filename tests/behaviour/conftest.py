"""Managers that the tests of several files share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from support import (
    KEY,
)
from support.oneway import OnewayManager, StockManager


@pytest.fixture(scope="module")
def stock_manager() -> Iterator[OnewayManager]:
    """A client of a server of the stdlib's."""
    gc.collect()  # a forked server would hold what is garbage here, and never drop it
    with StockManager(authkey=KEY) as server:
        client = OnewayManager(server.address, KEY)
        client.connect()
        yield client
