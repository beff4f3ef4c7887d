"""Steps on words: of two that the server and a client make at once none is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import ProbeManager

pytestmark = pytest.mark.timeout(90)

STEPS = 60


def at_once(by_memory: Callable[[], Any], by_call: Callable[[], Any]) -> None:
    """Make steps in this process while the server makes as many."""

    def repeat(step: Callable[[], Any]) -> None:
        for _ in range(STEPS):
            step()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(repeat, step) for step in (by_memory, by_call)]:
            future.result()


@pytest.mark.parametrize("code", "bBhHiIlLqQ")
def test_no_step_on_an_item_is_lost_or_reaches_its_neighbours(
    manager: ProbeManager, code: str
) -> None:
    array = manager.Array(code, [1, 2, 3])
    assert array.incr(1, 0) == 2
    at_once(lambda: array.incr(1), lambda: array._callmethod("incr", (1,)))
    assert array[:].tolist() == [1, 2 + 2 * STEPS, 3]


def test_no_step_on_a_value_is_lost(manager: ProbeManager) -> None:
    value = manager.Value("d", 0.5)
    at_once(lambda: value.incr(1), lambda: value._callmethod("incr", (2,)))
    assert value.get() == 0.5 + 3 * STEPS


def test_of_all_who_replace_a_number_one_succeeds(manager: ProbeManager) -> None:
    counter = manager.Counter()
    won: list[bool] = []
    for number in range(3):
        at_once(
            lambda: won.append(counter.compare_exchange(number, number + 1)),  # noqa: B023
            lambda: won.append(counter._callmethod("compare_exchange", (number, number + 1))),  # noqa: B023
        )
    assert (counter.get(), won.count(True)) == (3, 3)
