"""What clients do in memory that they share with a manager."""

from collections.abc import Iterator, Mapping
from timeit import Timer
from typing import Any

import pytest
from cells import CELLS, COMPILED, cells, compare_cell
from echo import compiler
from gate import Gate
from measure import Effort

from fastmgr.cli.bench import FAST, PLAIN, STOCK

BATCH = 1000


@pytest.fixture(scope="module")
def found() -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """What the contenders' statements work on."""
    with cells() as names:
        yield names


@pytest.mark.parametrize("name", CELLS)
def test_cell(
    name: str,
    found: Mapping[str, Mapping[str, Any]],
    benchmark: Any,
    gate: Gate,
    effort: Effort,
) -> None:
    """Compare them all, then give pytest-benchmark fastmgr alone, a thousand at a time."""
    comparison = compare_cell(name, found, effort)
    assert {STOCK, PLAIN, FAST} <= comparison.row.seconds.keys()
    if name == "increment" and compiler():
        assert COMPILED in comparison.row.seconds
    benchmark.extra_info.update(comparison.as_dict())
    timer = Timer(CELLS[name].statements[FAST], globals=dict(found[FAST]))
    benchmark.pedantic(timer.timeit, (BATCH,), rounds=10, iterations=1, warmup_rounds=1)
    gate.cell(name, comparison)
