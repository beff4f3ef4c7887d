"""Fixtures of the tests of shared types."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.carried import GHOSTS, SOURCE, Client


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
