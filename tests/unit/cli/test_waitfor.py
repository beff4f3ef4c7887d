"""The wait-for graph: which waits can never end, and who is in a cycle."""

from __future__ import annotations

import itertools
import random

import pytest

from fastmgr.cli.waitfor import chain, deadlocks, tree, waits, who
from fastmgr.monitor import ClientReport, LockReport, Party


def party(name: str) -> Party:
    return Party(host="here", pid=ord(name[0]), process=name, thread="MainThread", since=1.5)


def lock(text: str, typeid: str = "Lock") -> LockReport:
    """A lock as ``name: holders < waiters``, with a letter for each."""
    name, _, rest = text.partition(": ")
    holders, _, waiters = rest.partition(" < ")
    return LockReport(
        id=name,
        typeid=typeid,
        name=None,
        holders=tuple(map(party, holders.strip())),
        waiters=tuple(map(party, waiters.strip())),
    )


def found(*texts: str) -> list[tuple[str, str]]:
    """Of each deadlock who is in it, in order, and who waits behind it."""
    return [
        tuple("".join(wait.waiter.party.process for wait in part) for part in one)  # type: ignore[misc]
        for one in deadlocks(waits(map(lock, texts), ()))
    ]


CASES = {
    "nobody waits": (["1: a < "], []),
    "one waits": (["1: a < b"], []),
    "a chain": (["1: a < b", "2: b < c"], []),
    "a lock that its holder waits for": (["1: a < a"], [("a", "")]),
    "two": (["1: a < b", "2: b < a"], [("ba", "")]),
    "three in a row": (["1: a < c", "2: b < a", "3: c < b"], [("cab", "")]),
    "those behind": (["1: a < bc", "2: b < a", "3: c < d"], [("ba", "cd")]),
    "two deadlocks": (["1: a < b", "2: b < a", "3: c < d", "4: d < c"], [("ba", ""), ("dc", "")]),
    "a permit of who waits for nothing": (["1: ac < b", "2: b < a"], []),
    "all permits in the cycle": (["1: ac < b", "2: b < a", "3: b < c"], [("bac", "")]),
    "two permits of one": (["1: aa < b", "2: b < a"], [("ba", "")]),
    "a permit of one in another deadlock": (
        ["1: a < b", "2: b < a", "3: ad < c", "4: c < d"],
        [("ba", "cd")],
    ),
    "an event, which anybody may set": (["1:  < a", "2: a < b", "3: b < c"], []),
    "holders that wait for an event": (["1: a < b", "3:  < a"], []),
}


@pytest.mark.parametrize("case", CASES)
def test_deadlocks(case: str) -> None:
    texts, expected = CASES[case]
    assert found(*texts) == expected


@pytest.mark.parametrize("typeid", ["RLock", "Condition", "Semaphore", "BoundedSemaphore", "Gate"])
def test_deadlock_with_a_semaphore_is_only_possible(typeid: str) -> None:
    """Another thread may release it: it, and what a user has registered, perhaps has no owner."""
    locks = [lock("1: a < b"), lock("2: b < a", typeid), lock("3: c < d"), lock("4: d < c")]
    mixed, certain = deadlocks(waits(locks, ()))
    assert mixed.is_certain == (typeid in ("RLock", "Condition"))
    assert certain.is_certain


def for_ever(locks: list[LockReport], order: tuple[str, ...]) -> set[str]:
    """Who waits for ever where each thread that can go on runs to its end, in this order."""
    left = set(order)
    for name in order * len(order):
        mine = [one for one in locks if name in [waiter.process for waiter in one.waiters]]
        if all(not one.holders or {p.process for p in one.holders} - left for one in mine):
            left.discard(name)
    return left


@pytest.mark.parametrize("seed", range(200))
def test_no_order_of_running_ends_a_deadlock(seed: int) -> None:
    """Each wait that is called hopeless is so in every order, and no other is."""
    choose = random.Random(seed)
    names = "abcd"
    locks = []
    waiters = dict.fromkeys("1234", "")
    for name in names:
        if choose.random() < 0.8:
            waiters[choose.choice("1234")] += name
    for number, waiting in waiters.items():
        holders = "".join(choose.sample(names, choose.choice((0, 1, 1, 1, 2))))
        locks.append(lock(f"{number}: {holders} < {waiting}"))
    stuck = {frozenset(for_ever(locks, order)) for order in itertools.permutations(names)}
    hopeless = {
        wait.waiter.party.process
        for one in deadlocks(waits(locks, ()))
        for part in one
        for wait in part
    }
    assert stuck == {frozenset(hopeless)}
    for one in deadlocks(waits(locks, ())):
        inside = {wait.waiter for wait in one.waits}
        assert all(inside.issuperset(wait.holders) for wait in one.waits)


def test_what_keeps_a_thread() -> None:
    locks = list(map(lock, ["1: bc < a", "2: d < b", "3: a < d"]))
    steps = [
        (depth, wait.waiter.party.process, wait.lock.id)
        for depth, wait in chain(who(party("a")), waits(locks, ()))
    ]
    assert steps == [(0, "a", "1"), (1, "b", "2"), (2, "d", "3")]


def test_who_is_waited_for() -> None:
    """Each thread once, under whom it waits for; those in a cycle at the end."""
    locks = map(lock, ["1: a < bc", "2: b < d", "3: x < y", "4: y < x"])
    steps = [
        (depth, waiter.party.process, wait and wait.lock.id)
        for depth, waiter, wait in tree(waits(locks, ()))
    ]
    assert steps == [
        (0, "a", None),
        (1, "b", "1"),
        (2, "d", "2"),
        (1, "c", "1"),
        (0, "x", None),
        (1, "y", "3"),
    ]


def test_threads_of_one_name() -> None:
    """A thread waits for another of its name, which holds the lock: no deadlock."""
    one, other = (Party("here", 1, "web", "worker", 0.0, number) for number in (1, 2))
    assert not deadlocks(waits([LockReport("1", "Lock", None, (one,), (other,))], ()))
    assert deadlocks(waits([LockReport("1", "Lock", None, (one,), (one,))], ()))


@pytest.mark.parametrize("connections", [1, 2, 3])
def test_locks_whose_holder_is_a_process(connections: int) -> None:
    """Any of its threads may give it back: it is a deadlock if all of them wait."""
    process = Party("here", 1, "web", None, None, 0)
    other = Party("here", 2, "db", "MainThread", 1.0, 99)
    threads = [Party("here", 1, "web", f"Thread-{number}", 1.0, number) for number in (1, 2)]
    locks = [
        LockReport("1", "Lock", None, (process,), (other,)),
        LockReport("2", "Lock", None, (other,), tuple(threads)),
    ]
    clients = [ClientReport(1, "here", "web", connections=connections)]
    assert bool(deadlocks(waits(locks, clients))) == (connections <= 2)
    assert not deadlocks(waits(locks, ()))
    # It may be two clients, as if it spoke the stdlib's dialect besides.
    clients += [ClientReport(1, "here", "web", connections=1)]
    assert bool(deadlocks(waits(locks, clients))) == (connections <= 1)
