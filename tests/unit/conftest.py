"""The manager of a module's tests, and how tests of shared types make objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import KEY, ProbeManager, valkeys
from support.numbers import OBJECTS, Make


@pytest.fixture(scope="module")
def shared_manager(request: pytest.FixtureRequest) -> Iterator[ProbeManager]:
    """A manager for the tests of one module, of the class that the module calls `MANAGER`."""
    with getattr(request.module, "MANAGER", ProbeManager)(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def valkey_manager() -> Iterator[Any]:
    with valkeys.manager("valkey") as manager:
        yield manager


@pytest.fixture(scope="module")
def redis_manager() -> Iterator[Any]:
    with valkeys.manager("redis") as manager:
        yield manager


@pytest.fixture(scope="module")
def cluster_manager() -> Iterator[Any]:
    with valkeys.manager("cluster") as manager:
        yield manager


@pytest.fixture(params=["memory", "server", "object", *valkeys.PLACES])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes counters and so on: proxies that work by themselves, or do not, or the objects."""
    if request.param == "object":
        return lambda kind, *args: OBJECTS[kind](*args)
    name = {"memory": "manager", "server": "off_manager"}.get(
        request.param, f"{request.param}_manager"
    )
    chosen = request.getfixturevalue(name)
    return lambda kind, *args: getattr(chosen, kind)(*args)
