"""What clients keep of objects, explored, and what the exploration would not miss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exploring import Result
from version_model import Config, Mutation, explore

pytestmark = pytest.mark.timeout(120)

MOST = 60_000


def holds(config: Config) -> Result:
    result = explore(config, MOST)
    assert result.violation is None, "\n".join([*result.trace, result.violation])
    return result


WHOLE = {
    "a reader and a writer": Config(("lrrr", "ww")),
    "two readers": Config(("lrr", "lrr", "w")),
    "two writers": Config(("lrr", "w", "w")),
    "own writes": Config(("lrwr", "lrr")),
    "given while a call changes the object": Config(("w", "lrr")),
    "a version that goes": Config(("lrlr", "w"), drops=1),
    "another object's word": Config(("lrr", "lw"), drops=1, others=1),
    "a death": Config(("lrr", "w"), deaths=1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_kept(name: str) -> None:
    assert holds(WHOLE[name]).states > 10


BROKEN = {
    Mutation.NO_BEGIN: WHOLE["two readers"],
    Mutation.NO_END: WHOLE["a reader and a writer"],
    Mutation.NO_CHANGE: WHOLE["a reader and a writer"],
    Mutation.COUNTED_BY_WORD: WHOLE["another object's word"],
    Mutation.DROPPED_STANDING: WHOLE["a version that goes"],
    Mutation.GIVEN_DURING_CALLS: WHOLE["given while a call changes the object"],
    Mutation.READ_ONCE: WHOLE["a reader and a writer"],
}


@pytest.mark.parametrize("mutation", BROKEN, ids=lambda mutation: mutation.value)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    broken = explore(replace(BROKEN[mutation], mutation=mutation), MOST)
    assert broken.violation is not None and broken.trace
