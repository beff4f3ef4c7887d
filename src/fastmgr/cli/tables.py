"""Tables of what a server reports: which columns there are, and what is in them.

A row is made of what two reports say of one thing, for its totals only grow, and a rate is how much
they grew in the time between the two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastmgr.cli.reports import number
from fastmgr.cli.units import as_bytes, as_number, as_seconds, counted, one_line
from fastmgr.cli.waitfor import Deadlock, deadlocks, waits, who
from fastmgr.monitor import Report

__all__ = ["CLIENTS", "LOCKS", "OBJECTS", "TABLES", "Column", "Row", "Sight", "Table", "as_text"]


class Row(NamedTuple):
    """One object, client or lock, as it is now and as it was; `before` is None if it was not."""

    now: Any
    before: Any
    seconds: float
    deadlock: str = ""  # of a lock: "deadlock" or "possible" where it is in one

    @property
    def is_deadlocked(self) -> bool:
        """Whether it is in a deadlock that only its threads could end."""
        return self.deadlock == "deadlock"

    def rate(self, field: str) -> float | None:
        """Return by how much a total has grown each second; None where that is not known."""
        if self.seconds <= 0:
            return None
        start = 0 if self.before is None else getattr(self.before, field)
        return max(0.0, getattr(self.now, field) - start) / self.seconds


class Column(NamedTuple):
    """A column: its heading, what is in it, and how that is shown.

    `by` is which objects a server has to tell of, where it does not tell of all: see
    `Monitor.report`.
    """

    heading: str
    value: Callable[[Row], Any]
    shown: Callable[[Any], str] = as_number
    by: str = "calls"

    @property
    def is_text(self) -> bool:
        """Whether it is put on the left, and sorted from A to Z."""
        return self.shown is one_line

    def sorted(self, rows: Iterable[Row], is_reversed: bool = False) -> list[Row]:
        """Return rows in the order of this column; those in which there is nothing come last."""
        with_key = [(self.value(row), row) for row in rows]
        there = [pair for pair in with_key if pair[0] is not None]
        there.sort(key=lambda pair: pair[0], reverse=self.is_text == is_reversed)
        return [row for _, row in there] + [row for key, row in with_key if key is None]


class Table(NamedTuple):
    """A table: its name, which part of a report it shows, and its columns."""

    name: str
    part: str
    key: Callable[[Any], Any]
    columns: tuple[Column, ...]
    order: str  # the heading of the column by which it is sorted at first
    least: tuple[
        str, ...
    ]  # headings of what a narrow terminal does without, the first of them first

    def column(self, heading: str) -> Column:
        """Return the column of that heading."""
        return next(column for column in self.columns if column.heading == heading)


def _field(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.now, name)


def _rate(name: str) -> Callable[[Row], Any]:
    return lambda row: row.rate(name)


def _name(row: Row) -> str:
    return row.now.name or number(row.now)


def _mean(row: Row) -> float | None:
    # The server takes the time of some calls only: none of these, perhaps.
    return row.now.seconds / row.now.calls if row.now.calls and row.now.seconds else None


def _since(parties: Any) -> float | None:
    return max((one.since for one in parties if one.since is not None), default=None)


def _holders(row: Row) -> str:
    return ", ".join(str(who(party)) for party in row.now.holders)


def _first(row: Row) -> str:
    return str(who(row.now.waiters[0])) if row.now.waiters else ""


TRAFFIC = (
    Column("calls/s", _rate("calls")),
    Column("calls", _field("calls")),
    Column("errors", _field("errors"), by="errors"),
    Column("mean", _mean, as_seconds, by="seconds"),
    Column("in", _field("bytes_in"), as_bytes, by="bytes"),
    Column("out", _field("bytes_out"), as_bytes, by="bytes"),
)
OBJECTS = Table(
    "objects",
    "objects",
    lambda one: one.id,
    (
        Column("object", _name, one_line),
        Column("type", _field("typeid"), one_line),
        *TRAFFIC,
        Column("waiters", _field("waiters"), by="waiters"),
        Column("waited", _field("waited"), as_seconds, by="waiters"),
        Column("items", _field("size")),
        Column("references", _field("references"), by="references"),
        Column("memory", lambda row: "shared" if row.now.in_memory else "", one_line),
    ),
    "calls",
    ("in", "out", "references", "waited", "mean", "items", "memory"),
)
CLIENTS = Table(
    "clients",
    "clients",
    lambda one: (one.host, one.pid, one.address) if one.number is None else one.number,
    (
        Column("process", _field("name"), one_line),
        Column("pid", _field("pid"), lambda pid: "" if pid is None else str(pid)),
        Column("host", _field("host"), one_line),
        *TRAFFIC,
        Column("connections", _field("connections")),
        Column("threads", lambda row: len(row.now.threads)),
        Column("references", _field("references")),
        Column("mapped", _field("mapped"), as_bytes),
    ),
    "calls",
    ("in", "out", "mapped", "references", "threads", "mean", "connections", "host"),
)
LOCKS = Table(
    "locks",
    "locks",
    lambda one: one.id,
    (
        Column("lock", _name, one_line),
        Column("type", _field("typeid"), one_line),
        Column("waiters", lambda row: len(row.now.waiters)),
        Column("for", lambda row: _since(row.now.waiters), as_seconds),
        Column("next", _first, one_line),
        Column("held by", _holders, one_line),
        Column("since", lambda row: _since(row.now.holders), as_seconds),
        Column("deadlock", lambda row: row.deadlock, one_line),
    ),
    "waiters",
    ("since", "next", "for"),
)
TABLES = (OBJECTS, CLIENTS, LOCKS)

#: What a table does not say of objects in shared memory.
UNCOUNTED = (
    "memory: shared: clients on the server's host make some steps without a call; they are not "
    "counted"
)


class Sight:
    """What is seen of a server: its report, and how that differs from the one before."""

    def __init__(self, report: Report, before: Report | None = None) -> None:
        if before is not None and (before.pid, before.started) != (report.pid, report.started):
            before = None  # another server, whose totals begin anew
        self.report = report
        self.before = before
        self.seconds = report.uptime - before.uptime if before is not None else 0.0
        found = deadlocks(waits(report.locks, report.clients))
        #: Of the possible ones nothing is wrong, perhaps.
        self.deadlocks: list[Deadlock] = [one for one in found if one.is_certain]
        self.possible: list[Deadlock] = [one for one in found if not one.is_certain]
        self._deadlocked = {
            wait.lock.id: "deadlock" if one.is_certain else "possible"
            for one in (*self.possible, *self.deadlocks)
            for wait in one.waits
        }

    def rows(self, table: Table) -> list[Row]:
        """Return the rows of a table, in no order."""
        before: dict[Any, Any] = {}
        is_whole = True
        if self.before is not None:
            before = {table.key(one): one for one in getattr(self.before, table.part)}
            is_whole = len(before) >= getattr(self.before.server, table.part, 0)
        return [
            Row(
                one,
                before.get(key),
                # Of a report that had no room for all, what was not in it need not be new.
                self.seconds if is_whole or key in before else 0.0,
                self._deadlocked.get(one.id, "") if table is LOCKS else "",
            )
            for one in getattr(self.report, table.part)
            for key in (table.key(one),)
        ]

    @property
    def server(self) -> Row:
        """What is known of the server itself."""
        return Row(self.report.server, self.before and self.before.server, self.seconds)

    def facts(self) -> list[str]:
        """Return what the server says of itself, a few words for each fact."""
        server, row = self.report.server, self.server
        facts = []
        rates = [("calls", as_number), ("bytes_in", as_bytes), ("bytes_out", as_bytes)]
        if self.before is not None:
            calls, came, went = (show(row.rate(field)) for field, show in rates)
            facts += [f"{calls} calls/s", f"{came}/s in", f"{went}/s out"]
        facts += [
            counted(server.clients, "client"),
            counted(server.connections, "connection"),
            counted(server.objects, "object"),
            counted(server.calls, "call"),
            counted(server.errors, "error"),
            f"{as_number(server.refused)} refused",
            f"{counted(server.workers, 'worker')} ({server.idle_workers} idle)",
            f"loop lag {as_seconds(server.loop_lag)}",
            f"memory {as_bytes(server.memory)}",
            f"shared memory {as_bytes(server.shared_memory)}",
            counted(server.descriptors, "descriptor"),
            f"process {self.report.pid}",
            f"up {as_seconds(self.report.uptime)}",
        ]
        if server.backlog is not None:
            facts.append(f"{counted(server.backlog, 'connection')} to be accepted")
        return facts


def as_text(table: Table, rows: Iterable[Row], width: int | None = None) -> str:
    """Return a table as lines of text, as wide as it has to be.

    Where there is a width, columns are left out that have no room, and the last line names them.
    """
    rows = list(rows)
    there = {
        column.heading: [column.heading, *(column.shown(column.value(row)) for row in rows)]
        for column in table.columns
    }
    widths = {heading: max(map(len, cells)) for heading, cells in there.items()}
    empty = [heading for heading, cells in there.items() if not any(cells[1:])]
    left_out = []
    for heading in dict.fromkeys([*empty, *table.least]):
        if width is None or sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        left_out.append(heading)
        del widths[heading]
    columns = [column for column in table.columns if column.heading in widths]
    lines = [
        "  ".join(
            f"{there[name][number]:{'<' if column.is_text else '>'}{widths[name]}}"
            for column in columns
            for name in [column.heading]
        ).rstrip()
        for number in range(len(rows) + 1)
    ]
    unseen = [heading for heading in left_out if heading not in empty]
    if unseen and width:
        lines += textwrap.wrap(f"(no room for: {', '.join(unseen)})", width)
    return "\n".join(lines)
