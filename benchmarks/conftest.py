"""Fixtures of the benchmarks: both managers, how long to measure, and the gate.

``pytest benchmarks/`` measures and applies the gate; ``pytest benchmarks/ --smoke`` (and anything
that disables pytest-benchmark) runs every case a few times, to show that it works. Wall time never
fails a run: the gate looks at how the two managers compare, and at counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The modules are found here whatever pytest's import mode is.
sys.path.insert(0, str(Path(__file__).parent))

from gate import Gate
from legs import FAST, STOCK
from measure import SMOKE, Effort
from report import Report

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the short run."""
    parser.addoption("--smoke", action="store_true", help="run each benchmark only a few times")


def pytest_configure(config: pytest.Config) -> None:
    """Let the short run disable pytest-benchmark too."""
    if config.getoption("--smoke", False):
        config.option.benchmark_disable = True
    config.stash[REPORT] = Report()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show both managers side by side."""
    if table := config.stash[REPORT].markdown():
        terminalreporter.section("stock and fastmgr")
        terminalreporter.write_line(table)


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    """How long to measure."""
    return SMOKE if request.config.getoption("benchmark_disable", True) else Effort()


@pytest.fixture(scope="session")
def gate(request: pytest.FixtureRequest, effort: Effort) -> Gate:
    """What fails a benchmark."""
    return Gate(request.config.stash[REPORT], effort)


@pytest.fixture(scope="module")
def stock() -> Iterator[Any]:
    """The standard library's manager, started."""
    with STOCK.start() as manager:
        yield manager


@pytest.fixture(scope="module")
def fast() -> Iterator[Any]:
    """fastmgr's manager, started."""
    with FAST.start() as manager:
        yield manager
