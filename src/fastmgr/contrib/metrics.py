"""The numbers of a server as metrics: their names, units and labels, for whoever shows them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastmgr.monitor import ObjectReport, Report

__all__ = ["Labels", "Metric", "Readings", "encodable"]

#: Objects of one report, and names that get numbers of their own: the others are one by type.
OBJECTS, NAMES = 10_000, 1000

#: The type's id and the name of an object; an empty name stands for all that have none.
Labels = tuple[tuple[str, str], ...]


class Metric(NamedTuple):
    """One number of a server, or of each of its objects.

    Attributes
    ----------
    name : str
        Words with ``_``, without the unit.
    unit : str
        ``seconds``, ``bytes``, or empty.
    grows : bool
        It is a total, which only grows while the server lives.
    about : str
        A sentence.
    field : str
        Of the report.
    """

    name: str
    unit: str
    grows: bool
    about: str
    field: str


OF_SERVER = (
    Metric("objects", "", False, "Shared objects that there are.", "objects"),
    Metric("clients", "", False, "Client processes that are connected.", "clients"),
    Metric("connections", "", False, "Connections that there are.", "connections"),
    Metric("connections_accepted", "", True, "Connections so far.", "accepted"),
    Metric("handshakes_refused", "", True, "Connections that have not proved the key.", "refused"),
    Metric("calls", "", True, "Calls of shared objects that came to the server.", "calls"),
    Metric("call_errors", "", True, "Calls that raised.", "errors"),
    Metric("call", "seconds", True, "Time of calls in the server.", "seconds"),
    Metric("received", "bytes", True, "Bytes of calls.", "bytes_in"),
    Metric("sent", "bytes", True, "Bytes of replies.", "bytes_out"),
    Metric("workers", "", False, "Threads beside the loop.", "workers"),
    Metric("idle_workers", "", False, "Threads without work.", "idle_workers"),
    Metric("backlog_connections", "", False, "Connections not accepted yet.", "backlog"),
    Metric("loop_lag", "seconds", False, "Longest turn of the loop of late.", "loop_lag"),
    Metric("resident_memory", "bytes", False, "Memory of the server's process.", "memory"),
    Metric("shared_memory", "bytes", False, "Memory that clients may map.", "shared_memory"),
    Metric("open_descriptors", "", False, "Files that the process has open.", "descriptors"),
)
STARTED = Metric("start_time", "seconds", False, "When the server began, since 1970.", "started")
#: Totals of an object, or of all of a type that have no name; also of those that have gone.
OF_OBJECTS = (
    Metric("object_calls", "", True, "Calls that came to the server.", "calls"),
    Metric("object_call_errors", "", True, "Calls that raised.", "errors"),
    Metric("object_call", "seconds", True, "Time of calls in the server.", "seconds"),
    Metric("object_received", "bytes", True, "Bytes of calls.", "bytes_in"),
    Metric("object_sent", "bytes", True, "Bytes of replies.", "bytes_out"),
    Metric("object_waited", "seconds", True, "Time that calls have waited.", "waited"),
    Metric("object_references", "", False, "References that clients have.", "references"),
    Metric("object_waiters", "", False, "Calls that wait.", "waiters"),
    Metric("object_items", "", False, "Items of the objects that can tell.", "size"),
)

Numbers = dict[str, float]


def encodable(text: str) -> str:
    """Return a text with "?" for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


class Readings:
    """Reads a server's numbers again and again, and adds up those of objects.

    A total of objects grows while the server lives, though objects come and go: each reading adds
    what has come since the one before.  What is done to an object that comes and goes between two
    readings is in the server's totals alone.

    Parameters
    ----------
    ask : callable
        Returns a report, of `OBJECTS` objects at most.
    """

    def __init__(self, ask: Callable[[], Report]) -> None:
        self.ask = ask
        self.started = 0.0
        # Two readings at once would count what is new twice, or an older report after a newer one.
        self.lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """Begin from nothing: it is another server."""
        self.seen: dict[str, Numbers] = {}
        self.totals: defaultdict[Labels, defaultdict[str, float]]
        self.totals = defaultdict(lambda: defaultdict(float))
        self.names: set[str] = set()

    def read(self) -> Iterator[tuple[Metric, list[tuple[Labels, float]]]]:
        """Yield each metric with its numbers, of one report.  Several threads may read."""
        with self.lock:
            found = list(self._read())
        yield from found

    def _read(self) -> Iterator[tuple[Metric, list[tuple[Labels, float]]]]:
        report = self.ask()
        if report.started != self.started:
            self.started = report.started
            self.begin()
        now = self.take(report.objects)
        yield STARTED, [((), report.started)]
        for metric in OF_SERVER:
            value = getattr(report.server, metric.field)
            if value is not None:
                yield metric, [((), float(value))]
        for metric in OF_OBJECTS:
            source = self.totals if metric.grows else now
            yield (
                metric,
                [
                    (labels, numbers[metric.field])
                    for labels, numbers in sorted(source.items())
                    if metric.field in numbers
                ],
            )

    def take(self, objects: tuple[ObjectReport, ...]) -> dict[Labels, defaultdict[str, float]]:
        """Add what is new to the totals; return what there is now."""
        now: defaultdict[Labels, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        seen: dict[str, Numbers] = {}
        for one in objects:
            labels = self.labels_of(one)
            before = self.seen.get(one.id, {})
            numbers = seen[one.id] = {}
            for metric in OF_OBJECTS:
                value = getattr(one, metric.field)
                if not metric.grows:
                    if value is not None:
                        now[labels][metric.field] += value
                    continue
                numbers[metric.field] = value
                step = value - before.get(metric.field, 0.0)
                # An object of the same name that was made anew begins at zero.
                self.totals[labels][metric.field] += step if step >= 0 else value
        if len(objects) >= OBJECTS and len(self.seen) < 4 * OBJECTS:
            seen = {**self.seen, **seen}  # those that are not among the first may come back
        self.seen = seen
        return now

    def labels_of(self, one: ObjectReport) -> Labels:
        """Return the labels of an object: it has its name as long as there are not too many."""
        name = encodable(one.name or "")
        if name not in self.names:
            if len(self.names) < NAMES:
                self.names.add(name)
            else:
                name = ""
        return ("typeid", encodable(one.typeid)), ("name", name)
