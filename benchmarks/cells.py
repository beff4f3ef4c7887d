"""Calls that need no message: what clients on the host do in memory that they share with a manager.

The cases and how they are measured are those of ``python -m fastmgr bench``; here they have limits,
and one more contender, the call of an empty method of a compiled class, which nothing that is
called from Python can undercut.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

from echo import PROGRAM, compiler
from measure import Effort

from fastmgr.cli import bench
from fastmgr.cli.bench import FAST, PLAIN, STOCK

COMPILED = "empty method"
NEED_MESSAGES = ("dict", "queue")
CELLS = {case.name: case for case in bench.CASES if case.name not in NEED_MESSAGES}
CELLS["increment"] = replace(
    CELLS["increment"],
    statements={**CELLS["increment"].statements, COMPILED: "empty.method()"},
)
"""The increment beside the least that a call costs."""
SECTIONS = {"shared": STOCK, "shared_of_plain": PLAIN, "shared_of_compiled": COMPILED}
"""Sections of the baseline, and what fastmgr is compared with in each."""


@dataclass(frozen=True)
class CellComparison:
    """A case's row, as the report and the gate want it."""

    row: bench.Row

    def ratios(self, section: str) -> list[float]:
        """Return the ratios of a section, turn by turn; [] if there is nothing to compare with.

        How many times as fast as stock and multiprocessing fastmgr was; what multiple of the empty
        method's time it took.
        """
        other = SECTIONS[section]
        ratios = self.row.ratios(other)
        return [1 / ratio for ratio in ratios] if other == COMPILED else ratios

    def as_dict(self) -> dict[str, float]:
        """Return the figures for a report."""
        keys = {STOCK: "stock", PLAIN: "plain", COMPILED: "compiled", FAST: "fast"}
        figures = {f"{keys[name]}_seconds": median(t) for name, t in self.row.seconds.items()}
        figures["fast_per_second"] = 1 / figures["fast_seconds"]
        stock = self.ratios("shared")
        figures |= {"ratio": median(stock), "ratio_min": min(stock), "ratio_max": max(stock)}
        for section, key in (
            ("shared_of_plain", "of_plain"),
            ("shared_of_compiled", "of_compiled"),
        ):
            if ratios := self.ratios(section):
                figures[key] = median(ratios)
        return figures


def empty() -> Any:
    """Return an object with an empty compiled method; None where that cannot be compiled."""
    if importlib.util.find_spec("pyximport") is None or not compiler():
        return None
    with warnings.catch_warnings():  # of setuptools, about itself
        warnings.simplefilter("ignore")
        import pyximport

        importers = pyximport.install(build_dir=str(PROGRAM.parent), language_level=3)
        try:
            from empty import Empty
        finally:
            pyximport.uninstall(*importers)
    return Empty()


@contextlib.contextmanager
def cells() -> Iterator[dict[str, Mapping[str, Any]]]:
    """Start the managers and give what each contender's statements work on."""
    compiled = empty()
    with bench.contenders(get_context()) as found:
        yield found | ({COMPILED: {"empty": compiled}} if compiled else {})


def compare_cell(
    name: str, found: Mapping[str, Mapping[str, Any]], effort: Effort
) -> CellComparison:
    """Measure one case, all contenders in turn."""
    case = CELLS[name]
    alone = effort.seconds * effort.rounds
    seconds = effort.client_seconds if case.processes > 1 else alone
    row = bench.measure(case, found, bench.Effort(effort.alternations, seconds), get_context())
    return CellComparison(row)
