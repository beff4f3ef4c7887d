"""Managers for the tests of calls by mail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import KEY, manager_without_arena
from support.mail import MailManager


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[MailManager]:
    with MailManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def own_manager() -> Iterator[MailManager]:
    with MailManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def off_manager() -> Iterator[MailManager]:
    """One with which this process has no memory in common."""
    with manager_without_arena(MailManager) as manager:
        yield manager
