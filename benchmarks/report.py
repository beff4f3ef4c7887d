"""The tables of the benchmarks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cases import TIMED
from cells import CELLS, CellComparison
from counts import IDLE_CONNECTIONS
from echo import SPIN
from measure import Comparison

BASELINE = Path(__file__).with_name("baseline.json")
TIMES = {"calls": "one client", "clients": "8 client processes"}
COUNTS = {
    "bytes": "bytes on the wire",
    "syscalls": "system calls, both sides",
    "instructions": "instructions; encoding and decoding beside C pickle",
    "threads": f"server threads, {IDLE_CONNECTIONS} idle connections",
    "idle": "an idle client's share of the server",
}
MICRO = 1e6
NANO = 1e9


@dataclass
class Report:
    """What was measured so far, by section and case."""

    times: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    counts: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    echo: dict[str, tuple[float, float]] = field(default_factory=dict)
    cells: dict[str, CellComparison] = field(default_factory=dict)

    def add_times(self, section: str, name: str, comparison: Comparison) -> None:
        """Add the times of a case."""
        self.times.setdefault(section, {})[name] = comparison

    def add_count(self, section: str, name: str, stock: float, fast: float) -> None:
        """Add the counts of a case, for one operation."""
        self.counts.setdefault(section, {})[name] = (stock, fast)

    def add_echo(self, pairs: int, sleeping: float, spinning: float) -> None:
        """Add the seconds of an exchange in C, by those who sleep at once and by those who spin."""
        self.echo[f"{pairs} pairs" if pairs > 1 else "1 pair"] = (sleeping, spinning)

    def add_cell(self, name: str, comparison: CellComparison) -> None:
        """Add the times of a case in shared memory."""
        self.cells[name] = comparison

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
        echo = {
            pairs: {"sleeping_seconds": sleeping, "spinning_seconds": spinning}
            for pairs, (sleeping, spinning) in self.echo.items()
        }
        cells = {name: comparison.as_dict() for name, comparison in self.cells.items()}
        more = {"shared": cells, "echo": echo}
        return times | counts | {section: found for section, found in more.items() if found}

    def markdown(self) -> str:
        """Return everything, as tables."""
        tables = (
            *self.time_tables(),
            *self.cell_table(),
            *self.echo_table(),
            *self.count_tables(),
        )
        return "\n".join(tables).strip()

    def time_tables(self) -> Iterator[str]:
        """Give a table of times for each section."""
        for section, cases in self.times.items():
            yield (
                f"\n| {TIMES[section]} | stock, µs | fastmgr, µs | ratio | lowest to highest "
                "| C, µs | of C | fastmgr, a second |"
            )
            yield "|---|---:|---:|---:|---:|---:|---:|---:|"
            for name, comparison in cases.items():
                found = comparison.as_dict()
                in_c = ("", "")
                if comparison.c:
                    in_c = (f"{found['c_seconds'] * MICRO:.1f}", f"**{found['of_c']:.2f}**")
                yield (
                    f"| {TIMED[name].label} "
                    f"| {found['stock_seconds'] * MICRO:.1f} "
                    f"| {in_micro(found['fast_seconds'])} "
                    f"| **{found['ratio']:.1f}** "
                    f"| {found['ratio_min']:.1f} to {found['ratio_max']:.1f} "
                    f"| {in_c[0]} | {in_c[1]} "
                    f"| {found['fast_per_second']:,.0f} |"
                )

    def cell_table(self) -> Iterator[str]:
        """Give a table of what is done in shared memory."""
        if self.cells:
            yield (
                "\n| shared memory | stock, µs | multiprocessing, ns | fastmgr, ns | ratio "
                "| lowest to highest | to multiprocessing | of an empty method |"
            )
            yield "|---|---:|---:|---:|---:|---:|---:|---:|"
        for name, comparison in self.cells.items():
            found = comparison.as_dict()
            plain = f"{found['plain_seconds'] * NANO:.0f}" if "plain_seconds" in found else ""
            yield (
                f"| {CELLS[name].label} "
                f"| {found['stock_seconds'] * MICRO:.1f} "
                f"| {plain} "
                f"| {found['fast_seconds'] * NANO:.0f} "
                f"| **{found['ratio']:,.0f}** "
                f"| {found['ratio_min']:,.0f} to {found['ratio_max']:,.0f} "
                f"| {part(found, 'of_plain')} "
                f"| {part(found, 'of_compiled')} |"
            )

    def echo_table(self) -> Iterator[str]:
        """Give a table of what C does when it may spin."""
        if self.echo:
            yield f"\n| an exchange in C | sleeping, µs | spinning up to {SPIN} µs, µs |"
            yield "|---|---:|---:|"
        for pairs, (sleeping, spinning) in self.echo.items():
            yield f"| {pairs} | {sleeping * MICRO:.1f} | {spinning * MICRO:.1f} |"

    def count_tables(self) -> Iterator[str]:
        """Give a table of counts for each section."""
        for section, cases in self.counts.items():
            yield f"\n| {COUNTS[section]} | stock | fastmgr |"
            yield "|---|---:|---:|"
            for name, (stock, fast) in cases.items():
                label = TIMED[name].label if name in TIMED else name
                yield f"| {label} | {stock:.10g} | {fast:.10g} |"


def part(found: dict[str, float], key: str) -> str:
    """Return a ratio as it stands in a table, or nothing."""
    return f"**{found[key]:.1f}**" if key in found else ""


def in_micro(seconds: float) -> str:
    """Return a time in microseconds, with more digits where it is less than one."""
    return f"{seconds * MICRO:.{1 if seconds * MICRO >= 1 else 3}f}"
