"""Print how fastmgr compares with the stock manager: ``python benchmarks/compare.py``."""

import argparse
import json
import math
import sys

from cases import CASES, CLIENTS
from counts import (
    BYTE_CASES,
    SYSCALL_CASES,
    bytes_per_operation,
    can_count_threads,
    can_trace,
    server_threads,
    syscalls_per_operation,
)
from fleet import compare_fleets
from legs import FAST, STOCK
from measure import Effort, compare_case
from report import BASELINE, Report

RATIO_MARGIN = 0.4
"""A floor is this part of the ratio measured: another processor has another ratio, a busy one
less."""
COUNT_MARGIN = 1.15
"""A ceiling is this multiple of the count measured, and at least one more where that is less."""


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


def new_baseline(report: Report) -> dict[str, dict[str, float]]:
    """Return the baseline with limits for everything measured; the rest stays as it is."""
    baseline: dict[str, dict[str, float]] = json.loads(BASELINE.read_text())
    for section, times in report.times.items():
        for name, comparison in times.items():
            baseline[section][name] = round(RATIO_MARGIN * comparison.ratio, 2)
    for section, counts in report.counts.items():
        for name, (_, fast) in counts.items():
            baseline[section][name] = math.ceil(max(fast * COUNT_MARGIN, fast + 1))
    return baseline


def main() -> int:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"only these; default: all of {', '.join(CASES)}"
    )
    parser.add_argument("--alternations", type=int, default=Effort.alternations, metavar="N")
    parser.add_argument("--no-clients", action="store_true", help="leave the client processes out")
    parser.add_argument("--no-counts", action="store_true", help="leave the counts out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--update-baseline", action="store_true", help="write new limits to baseline.json"
    )
    options = parser.parse_args()
    names = options.cases or list(CASES)
    if unknown := set(names) - CASES.keys():
        parser.error(f"no such case: {', '.join(sorted(unknown))}")

    effort = Effort(alternations=options.alternations)
    report = Report()
    compare_calls(report, names, effort)
    if not options.no_clients:
        compare_clients(report, [name for name in names if name in CLIENTS], effort)
    if not options.no_counts:
        compare_counts(report, names)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.markdown())
    if options.update_baseline:
        BASELINE.write_text(json.dumps(new_baseline(report), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
