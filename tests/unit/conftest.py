"""How the tests of shared types and of their proxies make objects."""

from __future__ import annotations

import pytest
from support import ProbeManager
from support.numbers import OBJECTS, Make


@pytest.fixture(params=["memory", "server", "object"])
def make(request: pytest.FixtureRequest, manager: ProbeManager, off_manager: ProbeManager) -> Make:
    """Makes counters and so on: proxies that work by themselves, or do not, or the objects."""
    if request.param == "object":
        return lambda kind, *args: OBJECTS[kind](*args)
    chosen = manager if request.param == "memory" else off_manager
    return lambda kind, *args: getattr(chosen, kind)(*args)
