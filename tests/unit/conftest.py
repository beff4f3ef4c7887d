"""The manager of a module's tests, and how tests of shared types make objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import KEY, ProbeManager
from support.numbers import OBJECTS, Make


@pytest.fixture(scope="module")
def shared_manager(request: pytest.FixtureRequest) -> Iterator[ProbeManager]:
    """A manager for the tests of one module, of the class that the module calls `MANAGER`."""
    with getattr(request.module, "MANAGER", ProbeManager)(authkey=KEY) as manager:
        yield manager


@pytest.fixture(params=["memory", "server", "object"])
def make(request: pytest.FixtureRequest, manager: ProbeManager, off_manager: ProbeManager) -> Make:
    """Makes counters and so on: proxies that work by themselves, or do not, or the objects."""
    if request.param == "object":
        return lambda kind, *args: OBJECTS[kind](*args)
    chosen = manager if request.param == "memory" else off_manager
    return lambda kind, *args: getattr(chosen, kind)(*args)
