"""What fails a benchmark: limits for ratios and counts, never for wall time."""

import json
from statistics import median
from typing import Any

import pytest
from cells import COMPILED, SECTIONS, CellComparison
from instructions import BUILD
from measure import Comparison, Effort
from report import BASELINE, Report

OTHER_BUILD = 1.5
"""A ceiling for instructions is this many times as high on a Python that it was not made with."""


class Gate:
    """Compares what was measured with ``baseline.json``, and keeps it for the report."""

    def __init__(self, report: Report, effort: Effort) -> None:
        self.baseline: dict[str, Any] = json.loads(BASELINE.read_text())
        self.report = report
        self.effort = effort

    def ratio(self, section: str, name: str, comparison: Comparison) -> None:
        """Fail if fastmgr is not as many times faster than stock as it has to be."""
        floor = self.limit(section, name)
        if not self.effort.gated:
            return
        self.report.add_times(section, name, comparison)
        if comparison.ratio < floor:
            each = ", ".join(f"{ratio:.2f}" for ratio in comparison.ratios)
            pytest.fail(
                f"{section}, {name}: stock/fastmgr is {comparison.ratio:.2f}, less than {floor:g} "
                f"(each: {each})"
            )

    def count(self, section: str, name: str, stock: float, fast: float) -> None:
        """Fail if fastmgr needs more of something than it may."""
        self.report.add_count(section, name, stock, fast)
        self.need(section, name, fast, f" (stock: {stock:.10g})")

    def need(self, section: str, name: str, fast: float, beside: str = "") -> None:
        """Fail if fastmgr needs more of something than it may, also where stock has no such thing.

        The failure says what is known `beside`.
        """
        ceiling = self.limit(section, name)
        if section.endswith("instructions") and self.baseline["build"] != BUILD:
            ceiling *= OTHER_BUILD
        if fast > ceiling:
            pytest.fail(f"{section}, {name}: {fast:.10g} is more than {ceiling:.10g}{beside}")

    def cell(self, name: str, comparison: CellComparison) -> None:
        """Fail if what is done in shared memory misses one of its goals."""
        limits = {
            section: self.limit(section, name)
            for section in SECTIONS
            if section == "shared" or name in self.baseline[section]
        }
        if not self.effort.gated:
            return
        self.report.add_cell(name, comparison)
        for section, limit in limits.items():
            if not (ratios := comparison.ratios(section)):
                continue  # no compiler
            found, other = median(ratios), SECTIONS[section]
            most = other == COMPILED
            if found > limit if most else found < limit:
                each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                what, than = (f"fastmgr/{other}", "more") if most else (f"{other}/fastmgr", "less")
                pytest.fail(
                    f"{section}, {name}: {what} is {found:.2f}, {than} than {limit:g} "
                    f"(each: {each})"
                )

    def limit(self, section: str, name: str) -> float:
        """Return the limit of a case: every case has one."""
        try:
            return float(self.baseline[section][name])
        except KeyError:
            pytest.fail(f"{BASELINE.name} has no limit for {section}, {name}")
