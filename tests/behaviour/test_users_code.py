"""Users' code that runs in the middle of a step on shared memory: it may take the memory away."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, call_in_subprocess

from fastmgr import managers
from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.memory.arena import Arena, settle

pytestmark = pytest.mark.timeout(90)


class Number:
    """Stands for a number, after having done something."""

    def __init__(self, deed: Callable[[], object], number: Any = 1) -> None:
        self.deed, self.number = deed, number

    def __index__(self) -> int:
        self.deed()
        return int(self.number)

    def __float__(self) -> float:
        self.deed()
        return float(self.number)


class Key:
    """Equals a string, after having done something."""

    def __init__(self, deed: Callable[[], object], name: str) -> None:
        self.deed, self.name = deed, name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        self.deed()
        return other == self.name


class Dropped:
    """A cycle that does something when it is collected."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self.deed, self.me = deed, self

    def __del__(self) -> None:
        self.deed()


def quietly(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "done"


Case = tuple[Any, Callable[[Any, Any], object]]
"""What a step is made on, and the step: it is given the proxy and a deed."""


def cases(manager: Any) -> dict[str, Case]:
    """Steps that run users' code."""
    counter = manager.Counter(1)
    by_name, by_index = manager.Counters(["a", "b"]), manager.Counters(200_000)
    ints, floats = manager.Array("q", [1] * 100_000), manager.Array("d", [1.0] * 100_000)
    value, rlock = manager.Value("i", 1), manager.RLock()

    def as_garbage(call: Callable[[Any], object]) -> Callable[[Any, Any], object]:
        def step(proxy: Any, deed: Any) -> object:
            Dropped(deed)
            gc.set_threshold(1)  # up to CPython 3.11 any allocation may collect
            try:
                return call(proxy)
            finally:
                gc.set_threshold(700)

        return step

    def in_new_thread(call: Callable[[Any], object]) -> Callable[[Any], object]:
        def step(proxy: Any) -> None:
            thread = threading.Thread(target=quietly, args=(lambda: call(proxy),))
            thread.start()
            thread.join(DEADLINE)

        return step

    def set_item(key: Any, value: Any) -> Callable[[Any, Any], object]:
        return lambda proxy, deed: proxy.__setitem__(
            key(deed) if callable(key) else key, value(deed) if callable(value) else value
        )

    return {
        "counter incr": (counter, lambda p, deed: p.incr(Number(deed))),
        "counter decr": (counter, lambda p, deed: p.decr(Number(deed))),
        "counter set": (counter, lambda p, deed: p.set(Number(deed))),
        "counter exchange": (counter, lambda p, deed: p.exchange(Number(deed))),
        "counter expected": (counter, lambda p, deed: p.compare_exchange(Number(deed), 2)),
        "counter desired": (counter, lambda p, deed: p.compare_exchange(1, Number(deed))),
        "counter too large": (counter, lambda p, deed: p.incr(Number(deed, 2**64))),
        "counters key": (by_index, lambda p, deed: p[Number(deed)]),
        "counters amount": (by_index, lambda p, deed: p.incr(1, Number(deed))),
        "counters both": (by_index, lambda p, deed: p.decr(Number(deed), Number(deed))),
        "counters exchange": (by_index, lambda p, deed: p.exchange(1, Number(deed))),
        "counters compare": (by_index, lambda p, deed: p.compare_exchange(1, 0, Number(deed))),
        "counters set": (by_index, set_item(Number, Number)),
        "counters equal name": (by_name, lambda p, deed: p.incr(Key(deed, "b"))),
        "counters unequal name": (by_name, lambda p, deed: p[Key(deed, "c")]),
        "array amount": (ints, lambda p, deed: p.incr(0, Number(deed))),
        "array key": (ints, lambda p, deed: p[Number(deed)]),
        "array slice": (ints, lambda p, deed: p[Number(deed) : 5]),
        "array item": (ints, set_item(0, Number)),
        "array key and item": (ints, set_item(Number, Number)),
        "array float": (floats, set_item(0, Number)),
        "value incr": (value, lambda p, deed: p.incr(Number(deed))),
        "value expected": (value, lambda p, deed: p.compare_exchange(Number(deed), 2)),
        "garbage at a snapshot": (by_index, as_garbage(lambda p: p.snapshot())),
        "garbage at the keys": (by_name, as_garbage(lambda p: p.as_dict())),
        "garbage at a slice": (ints, as_garbage(lambda p: p[:50_000])),
        "garbage at a buffer": (floats, as_garbage(lambda p: memoryview(p))),
        "garbage at an acquire": (rlock, as_garbage(in_new_thread(lambda p: p.acquire(False)))),
        "garbage at a count": (by_name, as_garbage(lambda p: p.incr("a"))),
    }  # fmt: skip


def closed_in_the_step() -> list[str]:
    """The names of the cases that were survived."""
    survived = []
    with ProbeManager(authkey=KEY) as manager:
        for name, (proxy, step) in cases(manager).items():
            for warm in (True, False):
                mine = managers.RebuildProxy(*_parts(proxy))
                if warm:
                    # The step begins with the memory at hand.
                    quietly(lambda mine=mine: mine.get() if hasattr(mine, "get") else len(mine))

                def deed(mine: Any = mine) -> None:
                    mine._close()
                    gc.collect()

                print(name, warm, file=sys.stderr, flush=True)
                quietly(lambda step=step, mine=mine, deed=deed: step(mine, deed))
            assert manager._number_of_objects() > 0
            survived.append(name)
    return survived


def _parts(proxy: Any) -> Any:
    return proxy.__reduce__()[1]


def test_a_proxy_that_is_closed_in_the_middle_of_a_step() -> None:
    assert len(call_in_subprocess(closed_in_the_step)) == 29


def test_the_servers_memory_moves_in_the_middle_of_a_step() -> None:
    """A client asks where an object is, while a call on it runs users' code."""

    def moves(obj: Any) -> Callable[[], object]:
        return lambda: settle(obj, arena)

    arena = Arena()
    counter = Counter(1)
    assert counter.incr(Number(moves(counter))) == 2
    assert counter.compare_exchange(Number(moves(counter), 2), 3) and counter.get() == 3
    row = Counters(4, [1, 2, 3, 4])
    assert row.incr(Number(moves(row)), Number(moves(row))) == 3
    row[Number(moves(row), 3)] = 9
    assert row.snapshot() == [1, 3, 3, 9]
    for code in "qd":
        for key in (0, 4999):
            items = Array(code, [1] * 5000)
            items[key] = Number(moves(items), 7)
            assert items[key] == 7
            items = Array(code, [1] * 5000)
            assert items[Number(moves(items), key)] == 1
    items = Array("q", [1] * 5000)
    assert items.incr(0, Number(moves(items))) == 2 == items[0]
    items = Array("q", [1] * 5000)
    items[Number(moves(items)) : 3] = items[0:2]
    assert items.tolist() == [1] * 5000
