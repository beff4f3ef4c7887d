"""Processes that change the same objects of a Valkey server at once: every total is exact."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, valkeys

from fastmgr import SyncManager

#: Of a process that has a thread, as that which shows a server that the process lives.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

PROCESSES, ROUNDS = 4, 150


@pytest.fixture(scope="module", params=valkeys.SLOW_PLACES)
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with valkeys.manager(request.param, ns="totals") as manager:
        yield manager


def _run(address: str, work: Callable[..., Any], number: int, args: Any, results: Any) -> None:
    manager = SyncManager(address=address)
    manager.connect()
    results.put((number, work(number, *args)))


def at_once(manager: Any, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Have processes do their work at once; return what each returns."""
    results = manager.Queue()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(manager.address, work, number, args, results))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=DEADLINE) for _ in processes)
    for process in processes:
        process.join(DEADLINE)
        assert process.exitcode == 0
    return [found[number] for number in range(PROCESSES)]


def count(number: int, shared: Any, counter: Any, row: Any, value: Any, items: Any) -> None:
    for i in range(ROUNDS):
        shared.incr("int")
        shared.incr("float", 0.5)
        shared.incr("text", "x", default="")
        shared.incr(f"new {i}")
        counter.incr(3)
        counter.decr()
        row.incr("b", -1)
        value.incr((1,))
        items.incr(1, 2)


def test_what_is_added(manager: Any) -> None:
    shared, counter, row = manager.dict(), manager.Counter(), manager.Counters(["a", "b"])
    value, items = manager.Value("i", ()), manager.Array("i", [0, 0, 0])
    at_once(manager, count, shared, counter, row, value, items)
    total = PROCESSES * ROUNDS
    assert (shared["int"], shared["float"], shared["text"]) == (total, total / 2, "x" * total)
    assert [shared[f"new {i}"] for i in range(ROUNDS)] == [PROCESSES] * ROUNDS
    assert len(shared.keys()) == len(shared) == 3 + ROUNDS
    assert (counter.get(), row["b"], len(value.get()), items[1]) == (
        2 * total, -total, total, 2 * total,
    )  # fmt: skip


def swap(number: int, shared: Any, value: Any) -> int:
    done = 0
    while done < ROUNDS:
        seen = shared["n"]
        done += shared.compare_exchange("n", seen, seen + 1)
        seen = value.get()
        value.compare_exchange(seen, [*seen, number])
    return done


def test_what_is_compared_and_exchanged(manager: Any) -> None:
    shared, value = manager.dict(n=0), manager.Value("i", [])
    assert at_once(manager, swap, shared, value) == [ROUNDS] * PROCESSES
    assert shared["n"] == PROCESSES * ROUNDS


def change_list(number: int, shared: Any) -> tuple[list[Any], list[Any]]:
    chosen = random.Random(number)
    put: list[Any] = []
    taken: list[Any] = []
    for i in range(ROUNDS):
        item = (number, i)
        put.append(item)
        chosen.choice([
            lambda item=item: shared.append(item),
            lambda item=item: shared.insert(chosen.randrange(-5, 5), item),
            lambda item=item: shared.extend([item]),
            lambda item=item: shared.__setitem__(slice(0, 0), [item]),
        ])()  # fmt: skip
        try:
            if i % 3 == 0:
                taken.append(shared.pop(chosen.randrange(-2, 2)))
            elif i % 7 == 0:
                shared.remove(item)
                taken.append(item)
            elif i % 20 == 1:
                shared.sort(key=lambda pair: pair[::-1])
            elif i % 20 == 2:
                shared.reverse()
        except (IndexError, ValueError):
            pass  # others have taken it
    return put, taken


def test_lists_lose_nothing(manager: Any) -> None:
    shared = manager.list()
    results = at_once(manager, change_list, shared)
    put = sorted(item for puts, _ in results for item in puts)
    taken = [item for _, takes in results for item in takes]
    assert sorted([*shared[:], *taken]) == put


def change_dict(number: int, shared: Any, members: Any) -> tuple[int, int, int]:
    first = popped = discarded = 0
    for i in range(ROUNDS):
        first += shared.setdefault(i % 50, (number, i)) == (number, i)
        if i % 2:
            try:
                shared.popitem()
                popped += 1
            except KeyError:
                pass
        members.add((number, i))
        if i % 3 == 0:
            members.pop()
            discarded += 1
    return first, popped, discarded


def test_dicts_and_sets_give_each_thing_once(manager: Any) -> None:
    shared, members = manager.dict(), manager.set()
    results = at_once(manager, change_dict, shared, members)
    first, popped, discarded = (sum(column) for column in zip(*results, strict=True))
    assert len(shared) == len(shared.items()) == first - popped
    assert len(members) == PROCESSES * ROUNDS - discarded


def exchange_proxies(number: int, shared: Any) -> None:
    manager = SyncManager(address=shared._token.address)
    manager.connect()
    for i in range(ROUNDS // 3):
        shared[i % 3] = manager.list([number, i])
        found = shared.get((i + 1) % 3)
        if found is not None:
            assert len(found) == 2
        if i % 5 == 0:
            shared.pop(i % 3, None)


def test_proxies_in_a_dict_that_others_replace(manager: Any) -> None:
    shared = manager.dict()
    at_once(manager, exchange_proxies, shared)
    assert manager._number_of_objects() == 1 + len(shared)
    shared.clear()
    assert manager._number_of_objects() == 1
