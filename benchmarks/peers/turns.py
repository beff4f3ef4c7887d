"""What the comparisons with peers share: figures of clients that are measured in turns, as a table.

A chart has the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

import fastmgr
from fastmgr.cli import chart

OURS = "fastmgr"


@dataclass(frozen=True)
class Row:
    """One operation that all clients do.

    Attributes
    ----------
    goals : mapping
        By a client: how many times as fast as that fastmgr is to be.
    parts : mapping
        By a client: what part of its time fastmgr may take.
    limit : float
        Seconds that fastmgr may take; 0 for any.
    """

    name: str
    label: str
    goals: Mapping[str, float]
    parts: Mapping[str, float] = field(default_factory=dict)
    limit: float = 0.0


@dataclass(frozen=True)
class Result:
    """Seconds of one operation of each client, one figure for each alternation."""

    row: Row
    seconds: Mapping[str, Sequence[float]]

    def ratio(self, peer: str) -> float:
        """How many times as long as fastmgr a peer takes: the median of the turns."""
        pairs = zip(self.seconds[peer], self.seconds[OURS], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    @property
    def ratios(self) -> dict[str, str]:
        """What a goal is set for, with the goal, by heading."""
        found = {
            f"x {peer}": f"{self.ratio(peer):.2f} (of {goal:g})"
            for peer, goal in self.row.goals.items()
            if peer in self.seconds
        }
        for peer, goal in self.row.parts.items():
            if peer in self.seconds:
                found[f"of {peer}'s time"] = f"{1 / self.ratio(peer):.2f} (of {goal:g})"
        if self.row.limit:
            ours = median(self.seconds[OURS])
            found["us"] = f"{ours * 1e6:.2f} (of {self.row.limit * 1e6:g})"
        return found

    @property
    def missed(self) -> list[str]:
        """What is not reached, or could not be measured."""
        lacking = [
            peer
            for peer, goal in self.row.goals.items()
            if peer not in self.seconds or self.ratio(peer) < goal
        ]
        lacking += [
            peer
            for peer, goal in self.row.parts.items()
            if peer not in self.seconds or 1 / self.ratio(peer) > goal
        ]
        if self.row.limit and median(self.seconds[OURS]) > self.row.limit:
            lacking.append(f"{self.row.limit * 1e6:g} us")
        return lacking


def markdown(results: Sequence[Result], clients: Sequence[str]) -> str:
    """Return a table: medians in microseconds, the ratios, and the goals of these."""
    headings = list(dict.fromkeys(name for result in results for name in result.ratios))
    heads = ["one operation, us: median (best)", *clients, *headings]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for result in results:
        cells = [result.row.label]
        for name in clients:
            found = result.seconds.get(name)
            cells.append(f"{median(found) * 1e6:.2f} ({min(found) * 1e6:.2f})" if found else "")
        ratios = result.ratios
        cells += [f"**{ratios[name]}**" if name in ratios else "" for name in headings]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(
    title: str, results: Sequence[Result], clients: Mapping[str, str], path: Path, caption: str
) -> None:
    """Draw the medians, with the ratios and our time beside; `clients` has the mark of each."""
    rows = {
        result.row.label.replace("`", ""): {
            name: median(found) for name, found in result.seconds.items()
        }
        for result in results
    }
    columns = {
        name: [result.ratios.get(name, "").partition(" ")[0] for result in results]
        for name in dict.fromkeys(name for result in results for name in result.ratios)
    }
    columns["us"] = [f"{median(result.seconds[OURS]) * 1e6:.2f}" for result in results]
    looks = {name: look for name, look in reversed(clients.items()) if name != OURS}
    looks[OURS] = clients[OURS]  # on top
    chart.draw(title, [chart.Panel("", rows, columns)], looks, path, caption)


@contextmanager
def compiled(source: Path, *flags: str) -> Iterator[str]:
    """Give the program that a file in C becomes."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        program = f"{folder}/{source.stem}"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-O2", *flags, "-o", program, str(source)], check=True)
        yield program


def line_ns() -> str:
    """Return how many nanoseconds a cache line takes from one processor to another; "?": unknown.

    The host of a virtual machine decides on which of its processors ours are, near to each other or
    far, and may decide anew at any time.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))[0]
    if sys.platform != "linux" or not shutil.which(compiler) or len(os.sched_getaffinity(0)) < 2:
        return "?"
    with compiled(Path(__file__).with_name("line.c"), "-pthread") as program:
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout.strip()


def versions(*packages: str) -> str:
    """Return what was compared, and how busy the machine was."""
    found = {
        "processors": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        platform.python_implementation(): platform.python_version(),
        "fastmgr": fastmgr.__version__,
    }
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return ", ".join(f"{name} {version}" for name, version in found.items())


def run(
    title: str,
    rows: Sequence[Row],
    clients: Mapping[str, str],
    measure: Callable[[Sequence[Row], int, float], list[Result]],
    packages: Sequence[str],
    alternations: int,
    seconds: float,
) -> int:
    """Measure what the command line asks for, and print it: the main function of a comparison.

    Parameters
    ----------
    title : str
    rows : sequence of Row
    clients : mapping
        How the chart marks each.
    measure : callable
        Called with rows, alternations, and the seconds of one figure.
    packages : sequence of str
        Those whose versions are shown.
    alternations, seconds : int, float
        As the command line's, where it has none.
    """
    parser = argparse.ArgumentParser(description=title)
    names = [row.name for row in rows]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}")
    parser.add_argument("--alternations", type=int, default=alternations, metavar="N")
    parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help="of one figure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="fail where a goal is not reached")
    parser.add_argument(
        "--plot", type=chart.file, metavar="FILE", help="draw it too: an .svg, .png or .pdf"
    )
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    chosen = [row for row in rows if not options.workloads or row.name in options.workloads]
    caption = f"{versions(*packages)}; alternations: {options.alternations}"
    before = line_ns()
    results = measure(chosen, options.alternations, options.seconds)
    caption += f"; a cache line passes in {before} ns (after the run: {line_ns()})"
    if options.plot:
        plot(title, results, clients, options.plot, caption)
    if options.json:
        print(json.dumps({one.row.name: dict(one.seconds) for one in results}, indent=2))
    else:
        print(f"{markdown(results, list(clients))}\n\n{caption}")
    missed = [f"{one.row.name} ({what})" for one in results for what in one.missed]
    if options.check and missed:
        print(f"not reached: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0
