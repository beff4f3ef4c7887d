"""Print how fastmgr compares with the stock manager and C: ``python benchmarks/compare.py``."""

import argparse
import json
import sys
from statistics import median
from typing import Any

import plot
from cases import CLIENTS, MESSAGE, TIMED
from cells import CELLS, cells, compare_cell
from counts import (
    BYTE_CASES,
    SYSCALL_CASES,
    bytes_per_operation,
    can_count_threads,
    can_trace,
    server_threads,
    syscalls_per_operation,
)
from echo import SPIN, Echo, compiler
from fleet import compare_fleets
from idle import can_measure_idle, idle_costs
from instructions import BUILD, can_count_instructions, instructions_per_operation
from legs import FAST, STOCK
from measure import Effort, compare_case
from report import BASELINE, Report

from fastmgr.cli import chart

RATIO_MARGIN = 0.4
"""A floor is this part of the ratio measured: another processor has another ratio, a busy one
less. But nowhere may fastmgr be slower than stock."""
COUNT_MARGINS = {
    "bytes": (1.02, 1),
    "syscalls": (1.05, 0.75),
    "threads": (1.0, 1),
    "instructions": (1.1, 0),
}
"""A ceiling is this multiple of the count measured, and at least so much more. One more system call
is too many, and one more byte in both of a small call's frames."""
GOALS = ("idle",)
"""Sections whose limits are promised, not measured."""


def compare_calls(report: Report, names: list[str], effort: Effort) -> None:
    """Measure cases with one client."""
    with STOCK.start() as stock, FAST.start() as fast:
        for name in names:
            comparison, _ = compare_case(name, stock, fast, effort)
            report.add_times("calls", name, comparison)


def compare_clients(report: Report, names: list[str], effort: Effort) -> None:
    """Measure cases with many client processes."""
    with STOCK.start() as stock, FAST.start() as fast:
        for name in names:
            report.add_times("clients", name, compare_fleets(name, stock, fast, effort))


def compare_cells(report: Report, names: list[str], effort: Effort) -> None:
    """Measure what clients do in shared memory."""
    with cells() as found:
        for name in names:
            report.add_cell(name, compare_cell(name, found, effort))


def compare_echoes(report: Report, effort: Effort) -> None:
    """Measure what C itself gains by spinning."""
    for pairs, seconds in ((1, effort.seconds), (effort.clients, effort.client_seconds)):
        with (
            Echo(pairs, MESSAGE, seconds) as sleeping,
            Echo(pairs, MESSAGE, seconds, spin=SPIN) as spinning,
        ):
            turns = [(sleeping.seconds(), spinning.seconds()) for _ in range(effort.alternations)]
        report.add_echo(pairs, *map(median, zip(*turns, strict=True)))


def compare_counts(report: Report, names: list[str]) -> None:
    """Count bytes, system calls and threads."""
    byte_cases = [name for name in names if name in BYTE_CASES]
    stock_bytes, fast_bytes = (bytes_per_operation(leg, byte_cases) for leg in (STOCK, FAST))
    for name in byte_cases:
        report.add_count("bytes", name, stock_bytes[name], fast_bytes[name])
    if can_trace():
        traced = [name for name in names if name in SYSCALL_CASES]
        stock_calls, fast_calls = (syscalls_per_operation(leg, traced) for leg in (STOCK, FAST))
        for name in traced:
            counts = sum(stock_calls[name].values()), sum(fast_calls[name].values())
            report.add_count("syscalls", name, *counts)
    if can_count_threads():
        report.add_count("threads", "idle", server_threads(STOCK), server_threads(FAST))


def compare_instructions(report: Report) -> None:
    """Count the instructions of encoding, decoding and calling."""
    for name, (stock, fast) in instructions_per_operation().items():
        report.add_count("instructions", name, stock, fast)


def compare_idle(report: Report) -> None:
    """Measure what an idle client costs the server."""
    for name, (stock, fast) in idle_costs().items():
        report.add_count("idle", name, stock, fast)


def new_baseline(report: Report) -> dict[str, Any]:
    """Return the baseline with limits for everything measured; the rest stays as it is."""
    baseline: dict[str, Any] = json.loads(BASELINE.read_text())
    for section, times in report.times.items():
        for name, comparison in times.items():
            limits = baseline.setdefault(section, {})
            limits[name] = round(max(1.0, RATIO_MARGIN * comparison.ratio), 2)
    for section, counts in report.counts.items():
        if section in GOALS:
            continue
        factor, least = COUNT_MARGINS[section]
        for name, (_, fast) in counts.items():
            limits = baseline.setdefault(section, {})
            limit = max(fast * factor, fast + least)
            limits[name] = round(limit, 2 if limit < 10 else 1 if limit < 1000 else None)
    if "instructions" in report.counts:
        baseline["build"] = BUILD
    return baseline


def main() -> int:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help=f"only these; default: all of {', '.join(TIMED)}; in shared memory {', '.join(CELLS)}",
    )
    parser.add_argument("--alternations", type=int, default=Effort.alternations, metavar="N")
    parser.add_argument("--no-calls", action="store_true", help="leave the one client out")
    parser.add_argument("--no-clients", action="store_true", help="leave the client processes out")
    parser.add_argument("--no-shared", action="store_true", help="leave the shared memory out")
    parser.add_argument("--no-counts", action="store_true", help="leave the counts out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--plot", type=chart.file, metavar="FILE", help="draw the times too: .svg, .png or .pdf"
    )
    parser.add_argument(
        "--update-baseline", action="store_true", help="write new limits to baseline.json"
    )
    options = parser.parse_args()
    names = [name for name in options.cases if name in TIMED] if options.cases else list(TIMED)
    in_memory = [name for name in options.cases or CELLS if name in CELLS]
    if unknown := set(options.cases) - TIMED.keys() - CELLS.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")

    effort = Effort(alternations=options.alternations)
    report = Report()
    if not options.no_calls:
        compare_calls(report, names, effort)
    if not options.no_clients:
        compare_clients(report, [name for name in names if name in CLIENTS], effort)
    if not options.no_shared:
        compare_cells(report, in_memory, effort)
    if options.no_calls and options.no_clients:
        pass  # no times that C would stand beside
    elif compiler():
        compare_echoes(report, effort)
    else:
        print("no C compiler (cc, or what CC names): nothing stands beside C", file=sys.stderr)
    if not options.no_counts:
        compare_counts(report, names)
        if options.cases:
            pass  # instructions have cases of their own
        elif can_count_instructions():
            compare_instructions(report)
        else:
            print("no valgrind that works: instructions are not counted", file=sys.stderr)
        if not options.cases and can_measure_idle():
            compare_idle(report)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.markdown())
    if options.plot:
        plot.draw(report.as_dict(), options.plot)
    if options.update_baseline:
        BASELINE.write_text(json.dumps(new_baseline(report), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
