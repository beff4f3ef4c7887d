"""One client, one call after the other."""

from typing import Any

import pytest
from cases import CALLS
from gate import Gate
from measure import Effort, compare_case


@pytest.mark.parametrize("name", CALLS)
def test_call(name: str, stock: Any, fast: Any, benchmark: Any, gate: Gate, effort: Effort) -> None:
    """Compare the two, then give pytest-benchmark (or CodSpeed) fastmgr alone."""
    comparison, loop = compare_case(name, stock, fast, effort)
    benchmark.extra_info.update(comparison.as_dict())
    benchmark.pedantic(loop.run, rounds=10, iterations=loop.count, warmup_rounds=1)
    gate.ratio("calls", name, comparison)
