"""The tables of the benchmarks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cases import CASES
from counts import IDLE_CONNECTIONS
from measure import Comparison

BASELINE = Path(__file__).with_name("baseline.json")
TIMES = {"calls": "one client", "clients": "8 client processes"}
COUNTS = {
    "bytes": "bytes on the wire",
    "syscalls": "system calls, both sides",
    "threads": f"server threads, {IDLE_CONNECTIONS} idle connections",
}
MICRO = 1e6


@dataclass
class Report:
    """What was measured so far, by section and case."""

    times: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    counts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def add_times(self, section: str, name: str, comparison: Comparison) -> None:
        """Add the times of a case."""
        self.times.setdefault(section, {})[name] = comparison

    def add_count(self, section: str, name: str, stock: float, fast: float) -> None:
        """Add the counts of a case, for one operation."""
        self.counts.setdefault(section, {})[name] = (stock, fast)

    def as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return everything, for JSON."""
        times = {
            section: {name: comparison.as_dict() for name, comparison in cases.items()}
            for section, cases in self.times.items()
        }
        counts = {
            section: {name: {"stock": stock, "fast": fast} for name, (stock, fast) in cases.items()}
            for section, cases in self.counts.items()
        }
        return {**times, **counts}

    def markdown(self) -> str:
        """Return everything, as tables."""
        return "\n".join([*self.time_tables(), *self.count_tables()]).strip()

    def time_tables(self) -> Iterator[str]:
        """Give a table of times for each section."""
        for section, cases in self.times.items():
            yield f"\n| {TIMES[section]} | stock, µs | fastmgr, µs | ratio | lowest to highest |"
            yield "|---|---:|---:|---:|---:|"
            for name, comparison in cases.items():
                found = comparison.as_dict()
                yield (
                    f"| {CASES[name].label} "
                    f"| {found['stock_seconds'] * MICRO:.1f} "
                    f"| {found['fast_seconds'] * MICRO:.1f} "
                    f"| **{found['ratio']:.1f}** "
                    f"| {found['ratio_min']:.1f} to {found['ratio_max']:.1f} |"
                )

    def count_tables(self) -> Iterator[str]:
        """Give a table of counts for each section."""
        for section, cases in self.counts.items():
            yield f"\n| {COUNTS[section]} | stock | fastmgr |"
            yield "|---|---:|---:|"
            for name, (stock, fast) in cases.items():
                label = CASES[name].label if name in CASES else name
                yield f"| {label} | {stock:.10g} | {fast:.10g} |"
