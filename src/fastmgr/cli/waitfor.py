"""Who waits for whom: the wait-for graph of threads and locks, and the deadlocks in it.

It is computed from what a server reports, and asks nobody. A thread that waits for a lock goes on
as soon as one of those who hold it gives it back: so a wait is hopeless where all holders wait
themselves, and hopelessly. Where nobody is known to hold what is waited for, as with an event or a
queue, anybody may end the wait.

Of a lock that was taken in shared memory only the process is known that holds it, and any of its
threads may give it back: it is held by all of its threads that use the server.

Who has taken a permit of a semaphore need not give it back: another thread may release it, which
perhaps waits for nothing. So where a deadlock has a semaphore in it, it is only a possible one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastmgr.cli.units import one_line
from fastmgr.monitor import ClientReport, LockReport, Party

__all__ = ["Deadlock", "Wait", "Who", "chain", "deadlocks", "tree", "waits", "who"]


#: This host, which is not named.
HERE = os.uname().nodename

#: Types whose holders give back what they hold; of all others anybody may.
OWNED = ("Lock", "RLock", "Condition")


@dataclass(frozen=True)
class Who:
    """A thread of a process, which holds locks and waits for one.

    Threads may have the same name, so it is the server's number of it that counts, if that is told.
    """

    key: Any
    party: Party = field(compare=False)

    def __str__(self) -> str:
        party = self.party
        if party.pid is None and party.process is None:
            return "a process that has ended"
        text = f"{party.process or 'process'} ({'?' if party.pid is None else party.pid})"
        if party.thread not in (None, "MainThread"):
            text += f" {party.thread}"
        return one_line(text if party.host in ("", HERE) else f"{text} on {party.host}")


class Wait(NamedTuple):
    """A thread waits, for so many seconds already, for a lock that others hold.

    `holders` are who can end the wait.
    """

    waiter: Who
    lock: LockReport
    seconds: float | None
    holders: tuple[Who, ...]


class Deadlock(NamedTuple):
    """Waits none of which ends by the holders: each is for what only other waiters of them hold.

    Where they are one cycle, each waits for the next, and the last for the first. `behind` are the
    waits of others, who wait for these at first or at second hand.
    """

    waits: tuple[Wait, ...]
    behind: tuple[Wait, ...]

    @property
    def is_certain(self) -> bool:
        """Whether only the holders can end these waits: there is no semaphore among the locks."""
        return all(wait.lock.typeid in OWNED for wait in self.waits)


def who(party: Party) -> Who:
    """Return which thread a party is, whatever it does and for how long."""
    names = (party.host, party.pid, party.process, party.thread)
    return Who(names if party.number is None else party.number, party)


def waits(locks: Iterable[LockReport], clients: Iterable[ClientReport]) -> list[Wait]:
    """Return each wait for a lock, in the order of the locks and of those who wait for it."""
    locks = list(locks)
    threads: Counter[tuple[str, int | None]] = Counter()
    for one in clients:  # a process may be two clients
        threads[one.host, one.pid] += one.connections
    waiting: dict[tuple[str, int | None], dict[Who, None]] = {}
    for lock in locks:
        for party in lock.waiters:
            waiting.setdefault((party.host, party.pid), {})[who(party)] = None

    def held_by(party: Party) -> list[Who]:
        if party.thread is not None:
            return [who(party)]
        process = (party.host, party.pid)
        found = list(waiting.get(process, ()))
        # Its other threads are one who does not wait.
        return found if len(found) >= (threads[process] or len(found) + 1) else [who(party), *found]

    return [
        Wait(
            who(party),
            lock,
            party.since,
            tuple(dict.fromkeys(holder for one in lock.holders for holder in held_by(one))),
        )
        for lock in locks
        for party in lock.waiters
    ]


def chain(start: Who, all_waits: Iterable[Wait]) -> Iterator[tuple[int, Wait]]:
    """Yield the waits that keep a thread, each with its depth; of no thread twice."""
    of: dict[Who, list[Wait]] = {}
    for wait in all_waits:
        of.setdefault(wait.waiter, []).append(wait)
    seen: set[Who] = set()
    stack = [(0, start)]
    while stack:
        depth, waiter = stack.pop()
        if waiter not in seen:
            seen.add(waiter)
            for wait in of.get(waiter, ()):
                yield depth, wait
                stack += [(depth + 1, holder) for holder in reversed(wait.holders)]


def tree(all_waits: Iterable[Wait]) -> Iterator[tuple[int, Who, Wait | None]]:
    """Yield who is waited for, and under each who waits, with the depth; of no thread twice.

    First come those who wait for nobody themselves, then what is left: cycles.
    """
    behind: dict[Who, list[Wait]] = {}
    for wait in all_waits:
        for holder in wait.holders:
            behind.setdefault(holder, []).append(wait)
    waiting = {wait.waiter for wait in all_waits}
    seen: set[Who] = set()
    for root in sorted(behind, key=waiting.__contains__):
        stack: list[tuple[int, Who, Wait | None]] = [(0, root, None)]
        while stack:
            depth, waiter, why = stack.pop()
            if waiter not in seen:
                seen.add(waiter)
                yield depth, waiter, why
                after = behind.get(waiter, [])
                stack += [(depth + 1, wait.waiter, wait) for wait in reversed(after)]


def deadlocks(all_waits: Iterable[Wait]) -> list[Deadlock]:
    """Return the deadlocks among those who wait, certain and possible ones."""
    hopeless = _hopeless(list(all_waits))
    reached = {waiter: _reached(waiter, hopeless) for waiter in hopeless}
    knots: list[set[Who]] = []
    for waiter, others in reached.items():
        # Whoever is waited for waits for this one, too: nobody outside can end it.
        if (
            waiter in others
            and others not in knots
            and all(waiter in reached[one] for one in others)
        ):
            knots.append(others)
    return [
        Deadlock(
            tuple(hopeless[waiter] for waiter in _in_order(knot, hopeless)),
            tuple(
                wait
                for waiter, wait in hopeless.items()
                if waiter not in knot and reached[waiter] & knot
            ),
        )
        for knot in knots
    ]


def _hopeless(all_waits: list[Wait]) -> dict[Who, Wait]:
    """Return the waits that cannot end, by who waits, in order."""
    left = [wait for wait in all_waits if wait.holders]
    while True:
        stuck = {wait.waiter for wait in left}
        still = [wait for wait in left if stuck.issuperset(wait.holders)]
        if len(still) == len(left):
            return {wait.waiter: wait for wait in left}
        left = still


def _reached(start: Who, hopeless: dict[Who, Wait]) -> set[Who]:
    """Return for whom a waiter waits, at first or at second hand."""
    reached: set[Who] = set()
    found = [start]
    while found:
        fresh = set(hopeless[found.pop()].holders) - reached
        reached |= fresh
        found += fresh
    return reached


def _in_order(knot: set[Who], hopeless: dict[Who, Wait]) -> Iterator[Who]:
    """Yield the waiters of a knot, each after who waits for it as far as that goes."""
    left = dict.fromkeys(waiter for waiter in hopeless if waiter in knot)
    while left:
        waiter: Who | None = next(iter(left))
        while waiter is not None:
            yield waiter
            del left[waiter]
            waiter = next((one for one in hopeless[waiter].holders if one in left), None)
