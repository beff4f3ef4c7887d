"""The managers of tests that run on each kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import valkeys
from support.hashes import hashes, running

__all__ = ["engines_manager", "hashes", "running"]


@pytest.fixture(scope="module", params=valkeys.KINDS)
def engines_manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with valkeys.manager(request.param) as manager:
        yield manager
