"""What metrics of prometheus-client count in: floats on a server, which all processes share.

While the server is away each process counts for itself, and owes the sum; it raises nothing.  This
needs no prometheus-client.
"""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import fastmgr
from fastmgr.client.floats import FloatWord
from fastmgr.contrib.series import (
    LIMIT,
    OWNER,
    PID,
    TIME,
    VALUE,
    Series,
    float_of,
    log,
    word_of,
)

__all__ = ["EXTREMES", "OF_THE_DEAD", "SHARED", "Ledger", "OwnGauge", "Value"]

#: Which of the floats of a gauge: the one of all processes, or of those that have ended; a process
#: of its own has one from 1 on.
SHARED, OF_THE_DEAD = 0, -1
#: Modes of gauges in which what a process has had counts when it has ended.
EXTREMES: dict[str, Callable[[float, float], float]] = {"min": min, "max": max}


class Ledger:
    """What this process counts on a server, and what it owes."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self.owing: dict[int, Value] = {}
        self.values: weakref.WeakSet[Value] = weakref.WeakSet()
        self.met: tuple[object, int, int] | None = None
        self.told = False

    def value(
        self, typ: str, metric_name: str, name: str, labelnames: Iterable[str],
        labelvalues: Iterable[str], help_text: str, multiprocess_mode: str = "", **kwargs: Any,
    ) -> Value:  # fmt: skip
        """Return what one series of a metric counts in; prometheus-client calls this."""
        kind: type[Value] = Value
        if typ == "gauge":
            kind = {"sum": SumGauge, "mostrecent": LatestGauge}.get(multiprocess_mode, OwnGauge)
        labels = list(labelnames), list(labelvalues)
        made = kind(self, [typ, multiprocess_mode, metric_name, name, *labels, help_text])
        self.values.add(made)
        made.settle()  # so a scrape shows the series before it has counted anything
        return made

    def lost(self, error: Exception) -> None:
        """Note that the server cannot be reached; log that once."""
        self.series.lose()
        if not self.told:
            self.told = True
            log.warning(
                "the server at %r is away (%s: %s): metrics are counted in this process, and "
                "added when the server is back", self.series.address, type(error).__name__, error,
            )  # fmt: skip

    def note_meeting(self) -> None:
        """Where the process has met the server anew, owe what that cannot know.

        These are the gauges of the process and, in a row that is new, all series.
        """
        met, self.met = self.met, (self.series.process, self.series.party(), self.series.row_id)
        if met == self.met:
            return
        is_new = met is None or met[2] != self.met[2]
        for value in list(self.values):
            if is_new or type(value) is OwnGauge:
                self.owing[id(value)] = value

    def pay(self) -> None:
        """Add what is owed, of all values."""
        for value in list(self.owing.values()):
            if not value.settle():
                break

    def begin_process(self) -> None:
        """Owe nothing in the child of a fork: the parent does."""
        self.series.begin_process()
        self.owing = {}


class Value(FloatWord):
    """One series, to which all processes add: a float on the server.

    While that is away, it is what this process has added, and owes.
    """

    _multiprocess = True

    def __init__(self, used: Ledger, about: list[Any]) -> None:
        self.used, self.about = used, about
        self.owed = 0.0
        self.process = used.series.process
        self.row_id = used.series.row_id

    def inc_later(self, step: float) -> None:
        """Note what was added while the server is away."""
        self.mine += step
        self.owed += step

    def add_later(self, step: float) -> None:
        """Add at once if the server is there after all, else when it is back."""
        with self.used.series.lock:
            self.begin_process()
            self.inc_later(step)
            if self.settle() and self.used.owing:
                self.used.pay()

    def begin_process(self) -> None:
        """In the child of a fork start from nothing: what was counted before is the parent's."""
        if self.process is not self.used.series.process:
            self.process = self.used.series.process
            self.mine = self.owed = 0.0

    def settle(self) -> bool:
        """Find the float, and add what is owed; False, and the series is owed, if that fails.

        Nothing is raised: a program does not fail because its metrics cannot be counted.
        """
        used, series = self.used, self.used.series
        with series.lock:
            used.owing[id(self)] = self
            self.begin_process()
            try:
                with fastmgr.timeout(LIMIT):
                    if not series.reach():
                        return False
                    used.note_meeting()
                    at = self.place(series)
                    if self.row_id != series.row_id:
                        self.row_id = series.row_id
                        self.meet()
                    if series.mapped:
                        self.lie_in(series.row, at + VALUE)
                    self.pay(series.row, at)
            except Exception as error:
                used.lost(error)
                return False
            del used.owing[id(self)]
            if used.told:
                used.told = False
                log.warning("the server at %r is back", series.address)
            return True

    def key(self, part: int = 0) -> bytes:
        """Return what the series is found by; `part` tells those of several processes apart."""
        return json.dumps([*self.about, part], separators=(",", ":")).encode()

    def place(self, series: Series) -> int:
        """Return where the series is in the row."""
        return series.place(self.key(), began=time.time())

    def meet(self) -> None:
        """The server has lost the row, and another is in its place."""

    def pay(self, row: Any, at: int) -> None:
        """Add what is owed to the float."""
        if self.owed and not self.add(self.owed):
            change(row, at, lambda before: before + self.owed)
        self.owed = 0.0

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace the sum of all processes, as `Counter.reset` does."""
        if not self.store(value):
            with self.used.series.lock:
                self.inc(value - self.get())

    def get(self) -> float:
        """Return the float; while the server is away what this process has added."""
        found, series = self.load(), self.used.series
        if found is None:
            with series.lock:
                if self.settle() and (found := self.load()) is None:
                    try:
                        with fastmgr.timeout(LIMIT):
                            found = float_of(series.row[self.place(series) + VALUE])
                    except Exception as error:
                        self.used.lost(error)
        return self.mine if found is None else found

    def set_exemplar(self, exemplar: object) -> None:
        """Keep no exemplar, as in the multiprocess mode of prometheus-client."""

    def get_exemplar(self) -> None:
        """Return none."""


class SumGauge(Value):
    """A gauge of mode ``sum``: each process replaces what it has added itself."""

    def set(self, value: float, timestamp: float | None = None) -> None:
        with self.used.series.lock:
            if not self.replace_mine(value):
                self.begin_process()
                self.add_later(value - self.mine)

    def meet(self) -> None:
        self.owed = self.mine


class LatestGauge(Value):
    """A gauge of mode ``mostrecent``: what was set last, by whichever process."""

    stamp = 0.0

    def place(self, series: Series) -> int:
        return series.place(self.key())

    def set(self, value: float, timestamp: float | None = None) -> None:
        with self.used.series.lock:
            self.begin_process()
            self.mine, self.stamp = value, timestamp or time.time()
            self.settle()

    def pay(self, row: Any, at: int) -> None:
        if self.stamp > float_of(row[at + TIME]):
            row[at + TIME] = word_of(self.stamp)
            row[at + VALUE] = word_of(self.mine)


class OwnGauge(Value):
    """A gauge of which each process has its own, while it lives."""

    stamp = 0.0

    def place(self, series: Series) -> int:
        """Return where this process's float is: the first that no living process has."""
        row, me = series.row, series.party()
        for part in count(1):
            at = series.place(self.key(part))
            owner = row[at + OWNER]
            if owner == me:
                return at
            if series.living([owner]):
                continue
            if owner and row[at + PID] != os.getpid():
                self.keep_extreme(series, float_of(row[at + VALUE]))
            if row.compare_exchange(at + OWNER, owner, me):
                row[at + PID], row[at + TIME] = os.getpid(), 0
                return at
        raise AssertionError

    def keep_extreme(self, series: Series, value: float) -> None:
        """Keep what a process that has ended had, where that counts: in the modes min and max."""
        if (pick := EXTREMES.get(self.about[1])) is not None:
            nothing = float("inf") if pick is min else float("-inf")
            at = series.place(self.key(OF_THE_DEAD), nothing)
            change(series.row, at, lambda before: pick(before, value))

    def set(self, value: float, timestamp: float | None = None) -> None:
        if timestamp is None and self.store(value):
            return
        with self.used.series.lock:
            self.begin_process()
            self.mine, self.stamp = value, timestamp or 0.0
            self.settle()

    def pay(self, row: Any, at: int) -> None:
        if self.stamp:
            row[at + TIME] = word_of(self.stamp)
        if not self.store_mine():
            row[at + VALUE] = word_of(self.mine)


def change(row: Any, at: int, to: Callable[[float], float]) -> None:
    """Replace the float of a record by what `to` makes of it, in one step."""
    while True:
        before = row[at + VALUE]
        if row.compare_exchange(at + VALUE, before, word_of(to(float_of(before)))):
            return
