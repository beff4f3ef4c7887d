"""Where named objects are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.names import started


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    mask = os.umask(0o022)  # what others could write to is refused
    yield str(tmp_path / "arena")
    os.umask(mask)


@pytest.fixture(params=["memory", "file"])
def either(request: pytest.FixtureRequest, path: str) -> Iterator[Any]:
    with started(path if request.param == "file" else True) as manager:
        yield manager
