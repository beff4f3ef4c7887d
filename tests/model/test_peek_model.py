"""Counting a ring's items without its slot, explored, and what the exploration would not miss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from peek_model import Config, Mutation, explore

pytestmark = pytest.mark.timeout(120)

MOST = 60_000
WHOLE = {
    "who puts and gets": Config(("ll", "ppgg")),
    "two who put": Config(("l", "pp", "pp")),
    "one who has changed it": Config(("plgl", "pg")),
    "a ring that ends": Config(("ll", "pgp"), ends=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_counted_was_so_meanwhile(name: str) -> None:
    result = explore(WHOLE[name], MOST)
    assert result.violation is None, "\n".join([*result.trace, result.violation])
    assert result.states > 10


BROKEN = {
    Mutation.LOOKS_ONCE: WHOLE["who puts and gets"],
    Mutation.IGNORES_SIDES: WHOLE["who puts and gets"],
    Mutation.OTHER_COPY: WHOLE["who puts and gets"],
    Mutation.LETS_GO: Config(("g", "l", "ppgp")),
}


@pytest.mark.parametrize("mutation", BROKEN, ids=lambda mutation: mutation.value)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    broken = explore(replace(BROKEN[mutation], mutation=mutation), MOST)
    assert broken.violation is not None and broken.trace
