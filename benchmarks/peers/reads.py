"""Compare reading what nobody has changed: ``python benchmarks/peers/reads.py``.

One process reads and writes objects of the standard library's manager, of fastmgr, of fastmgr where
each read makes its call, and of UltraDict, which has a copy of a dict in each process. Then some
processes do both at the same time, in several proportions, on one item of fastmgr's dict, once with
reads that make no call and once with those that do. All contenders are measured in turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import timeit
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import repeat
from multiprocessing.connection import Connection
from multiprocessing.managers import SyncManager as StockManager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import fastmgr
from fastmgr.cli import chart
from fastmgr.managers import SyncManager

sys.path.insert(0, str(Path(__file__).parents[1]))
from cells import COMPILED, empty  # the benchmarks are no package

STOCK, CALLS, PEER, FAST = "stock", "each a call", "UltraDict", "fastmgr"
LOOKS = {
    STOCK: "square", PEER: "diamond", CALLS: "bar", COMPILED: "pale bar", FAST: "circle",
}  # fmt: skip
ALTERNATIONS = 5
SECONDS = 0.05
TEN = list(range(1000, 1010))
#: A statement, by the label of its row, and what of a leg it needs.
STATEMENTS = {
    "d[k], an int": ("d['a']", "d"),
    "d.get(k)": ("d.get('a')", "d"),
    "k in d": ("'a' in d", "d"),
    "len(d)": ("len(d)", "d"),
    "d[k], ten ints": ("d['ten']", "d"),
    "l[i]": ("l[1]", "l"),
    "x in s": ("1 in s", "s"),
    "ns.x": ("ns.x", "ns"),
    "d[k] = v": ("d['a'] = 1", "d"),
    "d[k] = v; d[k]": ("d['a'] = 1; d['a']", "d"),
    "an empty method": ("empty.method()", "empty"),
}
#: Reads and writes that follow each other.
MIXES = {"99:1": (99, 1), "9:1": (9, 1), "1:1": (1, 1), "writes only": (0, 1)}
PROCESSES = (2, 8)

Times = dict[str, list[float]]


def objects(manager: Any) -> dict[str, Any]:
    """Return what the statements of a manager's leg work on."""
    found = {
        "d": manager.dict({"a": 1, "ten": TEN}),
        "l": manager.list([1, 2]),
        "ns": manager.Namespace(x=1),
    }
    if hasattr(manager, "set"):  # stock: from Python 3.14 on
        found["s"] = manager.set({1})
    return found


@contextmanager
def legs() -> Iterator[dict[str, dict[str, Any]]]:
    """Give the objects of each leg; UltraDict's where it is installed."""
    with ExitStack() as stack:
        fast = stack.enter_context(SyncManager())
        found = {
            STOCK: objects(stack.enter_context(StockManager())),
            CALLS: objects(fast),
            FAST: objects(fast),
        }
        for proxy in found[CALLS].values():
            proxy._keeps = False
        if find_spec("UltraDict2") is not None:
            from UltraDict2 import UltraDict  # type: ignore[import-not-found]

            shared = UltraDict({"a": 1, "ten": TEN}, shared_lock=True)
            stack.callback(shared.unlink)
            found[PEER] = {"d": shared}
        if (compiled := empty()) is not None:
            found[COMPILED] = {"empty": compiled}
        yield found


def seconds_of(statement: str, names: Mapping[str, Any], least: float) -> float:
    """Return the time of one statement, made again and again for about `least` seconds."""
    timer = timeit.Timer(statement, globals=dict(names))
    number = max(100, int(least / (timer.timeit(200) / 200)))
    return timer.timeit(number) / number


def compare_statements(alternations: int, least: float) -> dict[str, Times]:
    """Measure each statement on each leg that can make it."""
    with legs() as found:
        rows: dict[str, Times] = {}
        for label, (statement, needed) in STATEMENTS.items():
            able = {name: names for name, names in found.items() if needed in names}
            rows[label] = {name: [] for name in able}
            for _ in range(alternations):
                for name, names in able.items():
                    rows[label][name].append(seconds_of(statement, names, least))
    return rows


def be_client(shared: Any, pipe: Connection[Any, Any]) -> None:
    """Make reads and writes when told: ``(keeps, reads, writes, how often)``."""
    keeping, calling = shared, fastmgr.managers.DictProxy(
        shared._token, "pickle", authkey=multiprocessing.current_process().authkey
    )  # fmt: skip
    calling._keeps = False
    pipe.send(None)
    while (told := pipe.recv()) is not None:
        keeps, reads, writes, rounds = told
        proxy = keeping if keeps else calling
        start = perf_counter()
        for _ in repeat(None, rounds):
            for _ in repeat(None, reads):
                proxy["a"]
            for _ in repeat(None, writes):
                proxy["a"] = 1
        pipe.send((start, perf_counter()))


class Fleet:
    """Some processes that use one dict."""

    def __init__(self, size: int, shared: Any) -> None:
        context = multiprocessing.get_context("fork")
        self.pipes, self.processes = [], []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=be_client, args=(shared, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def seconds(self, keeps: bool, mix: tuple[int, int], rounds: int) -> float:
        """Return the time from the first start to the last end, over the number of operations."""
        for pipe in self.pipes:
            pipe.send((keeps, *mix, rounds))
        spans = [pipe.recv() for pipe in self.pipes]
        spent = max(end for _, end in spans) - min(start for start, _ in spans)
        return spent / (rounds * sum(mix) * len(self.pipes))

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def compare_mixes(size: int, alternations: int, least: float) -> dict[str, Times]:
    """Measure each mix, with as many processes as `size`."""
    rows: dict[str, Times] = {}
    with SyncManager() as manager:
        fleet = Fleet(size, manager.dict(a=1))
        for label, mix in MIXES.items():
            each = fleet.seconds(False, mix, 20)
            rounds = max(20, int(4 * least / (each * sum(mix) * size)))
            rows[label] = {CALLS: [], FAST: []}
            fleet.seconds(True, mix, rounds)  # it adapts to each mix anew
            for _ in range(alternations):
                for name, keeps in ((CALLS, False), (FAST, True)):
                    rows[label][name].append(fleet.seconds(keeps, mix, rounds))
        fleet.close()
    return rows


# -- what is said of it -------------------------------------------------------------


def times(row: Times, slow: str, fast: str = FAST) -> float:
    """Return how many times as fast one leg was as another: the median of all alternations."""
    if slow not in row or fast not in row:
        return float("nan")
    return median(a / b for a, b in zip(row[slow], row[fast], strict=True))


def goals(panels: Mapping[str, Mapping[str, Times]]) -> Iterator[tuple[str, float, bool]]:
    """Say of each goal what it is, what was found, and whether it holds."""
    alone = next(iter(panels.values()))

    def at_most(label: str, limit: float) -> tuple[str, float, bool]:
        found = median(alone[label][FAST]) * 1e9
        return f"{label}: at most {limit:g} ns", found, found <= limit

    def at_least(what: str, found: float, limit: float) -> tuple[str, float, bool]:
        return f"{what}: at least {limit:g} times as fast", found, found >= limit

    for label in ("d[k], an int", "k in d", "len(d)", "l[i]", "ns.x"):
        yield at_most(label, 120)
    yield at_most("d[k], ten ints", 500)
    first = alone["d[k], an int"]
    if COMPILED in alone["an empty method"]:
        method = median(alone["an empty method"][COMPILED])
        yield at_least("d[k] as an empty method", method / median(first[FAST]), 1 / 3)
    yield at_least("d[k] as the stock manager", times(first, STOCK), 300)
    yield at_least("d[k] as UltraDict", times(first, PEER), 1)
    yield at_least("d[k] = v as each a call", times(alone["d[k] = v"], CALLS), 0.95)
    for title, rows in list(panels.items())[1:]:
        for label, row in rows.items():
            limit = 5 if label == "99:1" else 0.95
            yield at_least(f"{title}, {label}", times(row, CALLS), limit)


def shown(seconds: float) -> str:
    """Return a time as nanoseconds or microseconds."""
    return f"{seconds * 1e9:,.0f} ns" if seconds < 1e-6 else f"{seconds * 1e6:,.1f} µs"


def factor(ratio: float) -> str:
    """Return how many times as fast fastmgr is, in bold."""
    return f"**{ratio:,.0f}**" if ratio >= 10 else f"**{ratio:.2g}**"


def print_table(title: str, rows: Mapping[str, Times]) -> None:
    """Print how many times as fast as each other leg fastmgr is, then the times.

    All are medians of the alternations.
    """
    names = [name for name in LOOKS if any(name in row for row in rows.values())]
    others = [name for name in names if name not in (FAST, COMPILED)]
    headings = [title, *(f"\N{MULTIPLICATION SIGN} {name}" for name in others), *names]
    print("\n| " + " | ".join(headings) + " |\n|---" + "|---:" * (len(headings) - 1) + "|")
    for label, row in rows.items():
        cells = [factor(times(row, name)) if {name, FAST} <= {*row} else "" for name in others]
        cells += [shown(median(row[name])) if name in row else "" for name in names]
        print(f"| `{label}` | " + " | ".join(cells) + " |")


def draw(panels: Mapping[str, Mapping[str, Times]], path: Path, note: str) -> None:
    """Draw the medians."""
    drawn = []
    for title, rows in panels.items():
        found = {label: {name: median(row[name]) for name in row} for label, row in rows.items()}
        ours = [shown(row[FAST]) if FAST in row else "" for row in found.values()]
        drawn.append(chart.Panel(title, found, {FAST: ours}))
    title = "Time of one operation: reads of what nobody has changed, and of what others change"
    chart.draw(title, drawn, LOOKS, path, note)


def main() -> int:
    """Print the tables, how busy the machine was, and which goals were met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alternations", type=int, default=ALTERNATIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one measurement")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--plot", type=chart.file, help="draw the medians: .svg, .png or .pdf")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    panels = {"one process": compare_statements(options.alternations, options.seconds)}
    for size in PROCESSES:
        found = compare_mixes(size, options.alternations, options.seconds)
        panels[f"{size} processes"] = found
    note = (
        f"{os.cpu_count()} processors; load average {before:.1f} before, {os.getloadavg()[0]:.1f} "
        f"after; medians of {options.alternations} alternations"
    )
    for title, rows in panels.items():
        print_table(title, rows)
    print(f"\n{note}\n")
    missed = 0
    for goal, figure, met in goals(panels):
        print(f"{'met   ' if met else 'MISSED'} {goal}: {figure:.3g}")
        missed += not met
    if options.json:
        options.json.write_text(json.dumps({"note": note, "panels": panels}))
    if options.plot:
        draw(panels, options.plot, note)
    return int(options.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
