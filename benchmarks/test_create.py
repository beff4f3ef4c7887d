"""Creating shared objects and dropping them."""

import time
from typing import Any

from gate import Gate
from measure import Effort, compare_case


def test_create(stock: Any, fast: Any, benchmark: Any, gate: Gate, effort: Effort) -> None:
    """Compare the two, and see that what was dropped is gone from the server."""
    before = [manager._number_of_objects() for manager in (stock, fast)]
    comparison, loop = compare_case("create", stock, fast, effort)
    benchmark.extra_info.update(comparison.as_dict())
    benchmark.pedantic(loop.run, rounds=10, iterations=loop.count, warmup_rounds=1)
    del loop
    assert [objects_left(stock, before[0]), objects_left(fast, before[1])] == before
    gate.ratio("calls", "create", comparison)


def objects_left(manager: Any, expected: int) -> int:
    """Return the number of objects in the server; the last release may still be on its way."""
    deadline = time.monotonic() + 2
    while (count := manager._number_of_objects()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(count)
