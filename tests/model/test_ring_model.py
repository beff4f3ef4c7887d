"""Rings of queues, explored, and what the exploration would not miss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exploring import Result
from ring_model import Config, Mutation, explore

pytestmark = pytest.mark.timeout(120)

MOST = 60_000


def holds(config: Config) -> Result:
    result = explore(config, MOST)
    assert result.violation is None, "\n".join([*result.trace, result.violation])
    return result


WHOLE = {
    "one client": Config(("ppggg",)),
    "a producer and a consumer": Config(("pp", "gg"), deaths=1),
    "two producers and a consumer": Config(("p", "p", "gg"), deaths=1),
    "a producer and two consumers": Config(("pp", "g", "g"), deaths=1),
    "a ring that ends": Config(("pp", "gg"), deaths=1, ends=1),
    "rings that end": Config(("pp", "g"), ends=2, anew=True),
    "another ring": Config(("p", "pg"), deaths=1, ends=1, anew=True),
    "who waits": Config(("wg", "pp")),
    "who waits, and a ring that ends": Config(("w", "p"), ends=1, anew=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_ring(name: str) -> None:
    assert holds(WHOLE[name]).states > 10


BROKEN = {
    Mutation.WRITES_IN_PLACE: WHOLE["a producer and a consumer"],
    Mutation.COMMITS_FIRST: WHOLE["a producer and a consumer"],
    Mutation.WIPES_EARLY: WHOLE["a producer and a consumer"],
    Mutation.FREES: Config(("p", "p"), ends=1),
    Mutation.REUSES: WHOLE["another ring"],
    Mutation.ENDS_BLINDLY: WHOLE["a ring that ends"],
    Mutation.PARKS_BLINDLY: WHOLE["who waits"],
}


@pytest.mark.parametrize("mutation", BROKEN, ids=lambda mutation: mutation.value)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    broken = explore(replace(BROKEN[mutation], mutation=mutation), MOST)
    assert broken.violation is not None and broken.trace
