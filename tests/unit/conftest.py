"""Managers that the unit tests share, and the helpers of all suites within reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support import ProbeManager, settle


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[ProbeManager]:
    """A manager for the tests of one module."""
    with ProbeManager() as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: ProbeManager) -> ProbeManager:
    """The module's manager with nothing left in it by the tests before."""
    if shared_manager._number_of_objects():  # collecting garbage takes longer than most tests
        settle(shared_manager, 0)
    return shared_manager
