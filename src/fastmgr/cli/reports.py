"""What a server reports of itself, as commands ask for it and show it: to people, or as JSON."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from fastmgr.cli import named
from fastmgr.cli.options import Refusal, shown
from fastmgr.cli.units import as_seconds, one_line
from fastmgr.cli.waitfor import Deadlock, Wait, chain, deadlocks, tree, waits, who
from fastmgr.link.sockets import connect_timeout
from fastmgr.monitor import ClientReport, LockReport, Monitor, NoReport, ObjectReport, Report

__all__ = [
    "Source",
    "about_deadlock",
    "about_lock",
    "about_thing",
    "about_waits",
    "as_json",
    "how_long",
    "number",
    "title",
]


class Source:
    """A server's reports, over a connection that is made anew where it was lost."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._monitor: Monitor | None = None

    def report(self, by: str = "calls") -> Report:
        """Return what the server reports now, by that order; `Refusal` where it does not."""
        key = named.introduce(self._options)
        if self._monitor is None:  # it connects when it is asked
            try:
                self._monitor = Monitor(
                    self._options.address, authkey=key, timeout=connect_timeout()
                )
            except ValueError as error:
                raise Refusal(str(error)) from None
        try:
            with named.refusing(self._options.address, key):
                return self._monitor.report(by=by)
        except BaseException as error:
            self.close()
            if isinstance(error, NoReport):
                raise Refusal(
                    f"{shown(self._options.address)}: the server reports nothing: it is the "
                    "standard library's, or an older one of fastmgr",
                    1,
                ) from None
            raise

    def close(self) -> None:
        """Close the connection; the next report makes another."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as plain values, with the deadlocks that are in it."""
    found = deadlocks(waits(report.locks, report.clients))
    return {
        **dataclasses.asdict(report),
        "deadlocks": [_deadlock_as_json(one) for one in found if one.is_certain],
        "possible_deadlocks": [_deadlock_as_json(one) for one in found if not one.is_certain],
    }


def _deadlock_as_json(found: Deadlock) -> dict[str, Any]:
    return {part: [_wait_as_json(wait) for wait in getattr(found, part)] for part in found._fields}


def _wait_as_json(wait: Wait) -> dict[str, Any]:
    return {
        "waiter": dataclasses.asdict(wait.waiter.party),
        "seconds": wait.seconds,
        "lock": {key: getattr(wait.lock, key) for key in ("id", "typeid", "name")},
        "holders": [dataclasses.asdict(holder) for holder in wait.lock.holders],
    }


# -- for people -----------------------------------------------------------------------------


def title(thing: LockReport | ObjectReport) -> str:
    """Return what people call an object: its name, or else its type and its number."""
    return one_line(thing.name or f"{thing.typeid} {number(thing)}")


def number(thing: LockReport | ObjectReport) -> str:
    """Return the number of an object, as in its proxies' tokens."""
    return one_line(thing.id.lstrip("0") or "0")


def how_long(seconds: float | None) -> str:
    """Return for how long, as words behind others; nothing where that is not known."""
    return "" if seconds is None else f" for {as_seconds(seconds)}"


def about_deadlock(found: Deadlock) -> Iterator[str]:
    """Yield the lines that say who is in a deadlock."""
    many = len(found.waits)
    whose = "a thread waits for what it has itself" if many == 1 else f"{many} threads"
    if found.is_certain:
        yield f"deadlock: {whose}"
    else:
        yield f"possible deadlock, unless another thread releases the semaphore: {whose}"
    for wait in found.waits:
        yield f"  {_about_wait(wait)}"
    for wait in found.behind:
        yield f"  behind it: {_about_wait(wait)}"


def _about_wait(wait: Wait) -> str:
    holders = dict.fromkeys(str(who(party)) for party in wait.lock.holders)
    return (
        f"{wait.waiter} waits for {title(wait.lock)}{how_long(wait.seconds)}, "
        f"which {' and '.join(holders)} {'holds' if len(holders) == 1 else 'hold'}"
    )


def about_lock(one: LockReport) -> Iterator[str]:
    """Yield the lines that say who has a lock, and who waits for it."""
    for party in one.holders:
        yield f"held by {who(party)}{how_long(party.since)}"
    for place, party in enumerate(one.waiters, 1):
        yield f"{place}. waits: {who(party)}{how_long(party.since)}"


def about_waits(report: Report) -> Iterator[str]:
    """Yield the lines of the wait-for graph: who is waited for, and under each who waits."""
    nothing = True
    for depth, one, wait in tree(waits(report.locks, report.clients)):
        nothing = False
        if wait is None:
            yield f"{one} is waited for"
        else:
            waits_for = f"waits for {title(wait.lock)}{how_long(wait.seconds)}"
            yield f"{'  ' * depth}└ {one} {waits_for}"
    if nothing:
        yield "nobody waits for what another holds"


def about_thing(thing: Any, report: Report) -> Iterator[str]:
    """Yield the lines that say who holds an object or a lock and waits for it, and why.

    Of a client its threads are named.
    """
    if isinstance(thing, ClientReport):
        yield f"peer: {one_line(thing.address)}"
        yield f"threads: {one_line(', '.join(thing.threads))}"
        return
    one = next((lock for lock in report.locks if lock.id == thing.id), None)
    if one is None:
        yield "nobody holds it, or waits for it"
        return
    yield from about_lock(one)
    all_waits = waits(report.locks, report.clients)
    keepers = [holder for wait in all_waits if wait.lock is one for holder in wait.holders]
    for holder in dict.fromkeys(keepers):
        for depth, wait in chain(holder, all_waits):
            yield f"{'  ' * depth}└ {_about_wait(wait)}"
