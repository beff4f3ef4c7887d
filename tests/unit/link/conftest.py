"""A stream, and what is at its other end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.streams import Ends, open_ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    stream, theirs = open_ends()
    yield stream, theirs
    theirs.close()
    stream.close()
