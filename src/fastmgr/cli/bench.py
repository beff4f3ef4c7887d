"""Measure what shared state costs on this machine, side by side.

Three contenders run the same few statements: the stock manager, multiprocessing's own `Value`,
`Lock`, `Event` and `Queue`, which need no manager, and fastmgr's manager. One turn measures all of
them, one after the other; there are several turns. The table has the median of each one's times
and how many times fastmgr's time the others took: the median, the lowest and the highest of the
turns. Where these are far apart the machine was busy with something else. What was counted is
checked exactly.
"""

import argparse
import json
import multiprocessing.managers as stock
import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from statistics import median
from time import perf_counter
from timeit import Timer
from typing import Any

from fastmgr import managers as fast
from fastmgr.cli import chart
from fastmgr.cli.demo import positive, started, stop, uninterrupted
from fastmgr.cli.options import add_start_method

STOCK, PLAIN, FAST = "stock manager", "multiprocessing", "fastmgr"
PROCESSES = 4  # that count at once
Names = Mapping[str, Any]  # what the names in a contender's statements stand for


class BenchError(Exception):
    """Nothing can be measured, or what was measured is wrong."""


@dataclass(frozen=True)
class Effort:
    """How many turns to measure, and about how long each contender in each of them."""

    alternations: int = 7
    seconds: float = 0.1


QUICK = Effort(alternations=3, seconds=0.02)


@dataclass(frozen=True)
class Case:
    """One row: what each contender runs.

    Where several processes run it at once, the time is that of all over the number of all.
    """

    name: str  # in JSON
    label: str  # in the table
    statements: Mapping[str, str]  # for each contender that can do it
    counts: bool = False  # whether a statement adds one to the contender's `total`
    processes: int = 1


INCREMENT = {
    STOCK: "with lock: value.value += 1",
    PLAIN: "with value.get_lock(): value.value += 1",
    FAST: "counter.incr()",
}
CASES = (
    Case("increment", "add 1 to a counter", INCREMENT, counts=True),
    Case("crowd", f"the same, {PROCESSES} processes", INCREMENT, counts=True, processes=PROCESSES),
    Case("value", "value.value", dict.fromkeys((STOCK, PLAIN, FAST), "value.value")),
    Case("lock", "with lock: pass", dict.fromkeys((STOCK, PLAIN, FAST), "with lock: pass")),
    Case("event", "event.is_set()", dict.fromkeys((STOCK, PLAIN, FAST), "event.is_set()")),
    Case("dict", "d['key']", dict.fromkeys((STOCK, FAST), "d['key']")),
    # The last: multiprocessing's queue starts a thread, and processes are not forked with threads.
    Case("queue", "q.put(1); q.get()", dict.fromkeys((STOCK, PLAIN, FAST), "q.put(1); q.get()")),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one case: the time of a statement, for each contender, turn by turn."""

    case: Case
    seconds: Mapping[str, Sequence[float]]

    def ratios(self, other: str) -> list[float]:
        """Return how many times fastmgr's time the other took, turn by turn; [] if it cannot."""
        of_other = self.seconds.get(other, ())
        return [theirs / ours for theirs, ours in zip(of_other, self.seconds[FAST], strict=False)]

    def medians(self) -> dict[str, float]:
        return {name: median(found) for name, found in self.seconds.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "label": self.case.label,
            "statements": dict(self.case.statements),
            "processes": self.case.processes,
            "seconds": self.medians(),
            "ratios": {
                name: {"median": median(found), "lowest": min(found), "highest": max(found)}
                for name in self.seconds
                if name != FAST and (found := self.ratios(name))
            },
        }


# -- measuring ----------------------------------------------------------------------------


class Alone:
    """A statement that is repeated in this process, often enough for the clock."""

    processes = 1

    def __init__(self, statement: str, names: Names) -> None:
        self.timer = Timer(statement, globals=dict(names))
        self.number = 1
        self.done = 0

    def run(self) -> float:
        """Run the statement `number` times in each process; return how long that took."""
        return self.timer.timeit(self.number)

    def calibrate(self, seconds: float) -> None:
        """Find the number that takes about so long. This warms up, too."""
        while (spent := self.seconds() * self.number * self.processes) < seconds:
            self.number = max(self.number + 1, int(self.number * min(10, seconds / spent)))

    def seconds(self) -> float:
        """Return the time of one statement."""
        spent = self.run()
        self.done += self.number * self.processes
        return spent / (self.number * self.processes)

    def close(self) -> None:
        """End what runs the statement."""


class Crowd(Alone):
    """The same in several processes at once; they wait for their turn in between."""

    def __init__(
        self, statement: str, names: Names, processes: int, context: BaseContext, stack: ExitStack
    ) -> None:
        super().__init__(statement, names)
        self.done = processes  # by which each has connected
        self.processes = processes
        self.pipes: list[Any] = []
        self.children: list[Any] = []
        stack.callback(stop, self.children)  # in order, they have ended by then
        for number in range(processes):
            ours, theirs = context.Pipe()
            self.pipes.append(ours)
            child = context.Process(  # type: ignore[attr-defined]
                target=take_part,
                args=(statement, dict(names), theirs, list(self.pipes)),
                name=f"Counter-{number + 1}",
            )
            with uninterrupted():
                self.children.append(child)
                child.start()
            theirs.close()
        self.answers()

    def run(self) -> float:
        for pipe in self.pipes:
            pipe.send(self.number)
        spans = self.answers()
        return max(end for _, end in spans) - min(start for start, _ in spans)

    def answers(self) -> list[Any]:
        """Return what each process says."""
        try:
            return [pipe.recv() for pipe in self.pipes]
        except (EOFError, ConnectionError):
            raise BenchError("a process that counts has failed; it has shown why") from None

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(0)
        for child in self.children:
            child.join()


def take_part(statement: str, names: Names, pipe: Any, parents: Sequence[Any]) -> None:
    """Run the statement as often as the pipe says, until it says 0: what a process of a crowd does.

    The processes share the clock: `perf_counter` is the system's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends the processes
    for copy in parents:  # while there is one, a pipe does not end with the parent
        copy.close()
    timer = Timer(statement, globals=dict(names))
    timer.timeit(1)  # connects
    pipe.send("ready")
    while number := pipe.recv():
        start = perf_counter()
        timer.timeit(number)
        pipe.send((start, perf_counter()))


@contextmanager
def contenders(context: BaseContext) -> Iterator[dict[str, Names]]:
    """Start the managers, and give the names that each contender's statements use."""
    if stock.SyncManager.__module__.partition(".")[0] != "multiprocessing":
        raise BenchError("multiprocessing.managers is fastmgr's here: there is nothing to compare")
    with ExitStack() as stack:
        on_stock = started(stock.SyncManager, context, stack)
        on_fast = started(fast.SyncManager, context, stack)
        plain: Any = context
        queue = plain.Queue()
        stack.callback(queue.join_thread)
        stack.callback(queue.close)
        yield {
            STOCK: shared_by(on_stock),
            PLAIN: {**primitives(plain), "q": queue},
            FAST: {**shared_by(on_fast), "counter": on_fast.Counter()},
        }


def primitives(maker: Any) -> dict[str, Any]:
    """Make what a manager and multiprocessing itself have in common."""
    return {"value": maker.Value("q", 0), "lock": maker.Lock(), "event": maker.Event()}


def shared_by(manager: Any) -> dict[str, Any]:
    """Make what a manager's statements work on."""
    return {**primitives(manager), "d": manager.dict(key=1), "q": manager.Queue()}


def total(names: Names) -> int:
    """Return what a contender has counted so far."""
    return int(names["counter" if "counter" in names else "value"].value)


def measure(case: Case, found: Mapping[str, Names], effort: Effort, context: BaseContext) -> Row:
    """Measure one case, in turn all contenders for which it has a statement."""
    with ExitStack() as stack:
        legs: dict[str, Alone] = {}
        before = {}
        for name in (name for name in found if name in case.statements):
            statement, names = case.statements[name], found[name]
            if case.counts and "value" in names:  # others only show what a call costs
                before[name] = total(names)
            if case.processes > 1:
                legs[name] = Crowd(statement, names, case.processes, context, stack)
            else:
                legs[name] = Alone(statement, names)
            legs[name].calibrate(effort.seconds)
        turns = [[leg.seconds() for leg in legs.values()] for _ in range(effort.alternations)]
        for leg in legs.values():
            leg.close()
    for name in before:
        counted = total(found[name]) - before[name]
        if counted != legs[name].done:
            raise BenchError(f"{case.label}, {name}: {legs[name].done} added, {counted} counted")
    return Row(case, dict(zip(legs, zip(*turns, strict=True), strict=True)))


# -- what is printed ------------------------------------------------------------------------


def shown_time(seconds: float) -> str:
    """Return a time as it is read easily."""
    unit, size = next(
        (pair for pair in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)) if seconds < 999.5 * pair[1]),
        ("s", 1.0),
    )
    return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"


def shown_ratio(ratio: float) -> str:
    """Return a ratio with as many digits as it is worth."""
    return (
        f"{ratio:,.0f}" if ratio >= 99.95 else f"{ratio:.1f}" if ratio >= 9.995 else f"{ratio:.2f}"
    )


def shown_ratios(ratios: Sequence[float]) -> str:
    """Return the median and the extremes of ratios."""
    if not ratios:
        return ""
    middle, least, most = map(shown_ratio, (median(ratios), min(ratios), max(ratios)))
    return f"{middle} ({least} to {most})"


WIDTHS = (24, 15, 17, 11, 27, 27)


def line(*cells: str) -> str:
    first, *others = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return first.strip().ljust(WIDTHS[0]) + "".join(others)


MACHINE = "{python}, {system}, {processors} processors"
HEADING = line("", STOCK, PLAIN, FAST, "stock / fastmgr", "multiprocessing / fastmgr")


def table_line(row: Row) -> str:
    found = row.medians()
    times = (shown_time(found[n]) if n in found else "" for n in (STOCK, PLAIN, FAST))
    return line(row.case.label, *times, *(shown_ratios(row.ratios(n)) for n in (STOCK, PLAIN)))


def crowd_line(row: Row) -> str:
    """Return what all processes together do in a second."""
    rates = (f"{1 / seconds:,.0f} ({name})" for name, seconds in row.medians().items())
    return f"{row.case.processes} processes, increments a second together: {', '.join(rates)}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
    }


def run(options: argparse.Namespace) -> int:
    """Measure, and print the table; return the exit status, 0 if every total is exact."""
    effort = QUICK if options.quick else Effort()
    effort = Effort(options.alternations or effort.alternations, effort.seconds)
    context = get_context(options.start_method)
    about = machine()
    rows: list[Row] = []
    try:
        with contenders(context) as found:
            if not options.json:
                turns = f"{effort.alternations} turn{'s' * (effort.alternations > 1)}"
                print(f"{MACHINE.format(**about)}; medians of {turns}\n\n{HEADING}")
            for case in CASES:
                rows.append(measure(case, found, effort, context))
                if not options.json:
                    print(table_line(rows[-1]), flush=True)
        if options.json:
            figures = {row.case.name: row.as_dict() for row in rows}
            print(json.dumps({**about, "alternations": effort.alternations, "cases": figures}))
        else:
            print()
            print(*(crowd_line(row) for row in rows if row.case.processes > 1), sep="\n")
            print("All totals are exact.")
        if options.plot:
            plot(rows, about, options.plot)
    except (BenchError, OSError) as error:
        print(f"fastmgr bench: {error}", file=sys.stderr)
        return 1
    return 0


def plot(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    times = {row.case.label: row.medians() for row in rows}
    ratios = [shown_ratio(median(row.ratios(STOCK))) for row in rows]
    panel = chart.Panel("", times, {"stock / fastmgr": ratios})
    looks = {STOCK: "square", PLAIN: "bar", FAST: "circle"}
    title = "Time of one operation on shared state"
    chart.draw(title, [panel], looks, path, MACHINE.format(**about))


def add_options(parser: argparse.ArgumentParser) -> None:
    add_start_method(parser)
    parser.add_argument(
        "--alternations", type=positive, metavar="N", help="turns (default: 7; 3 with --quick)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="measure a tenth as long: a first look"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--plot", type=chart.file, metavar="FILE", help="draw it too: an .svg, .png or .pdf"
    )
