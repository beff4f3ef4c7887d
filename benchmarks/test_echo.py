"""The C program, and what part of its time fastmgr takes: goals, not what was once measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import MEGABYTE, MESSAGE
from echo import FLAGS, SOURCE, SPIN, Echo, compiler
from fleet import compare_fleets
from gate import Gate
from measure import Comparison, Effort, compare_case
from report import BASELINE

pytestmark = pytest.mark.skipif(not compiler(), reason="needs a C compiler")

LIMITS: dict[str, Any] = json.loads(BASELINE.read_text())


@pytest.mark.parametrize("name", LIMITS["calls_of_c"])
def test_call_of_c(name: str, stock: Any, fast: Any, gate: Gate, effort: Effort) -> None:
    """A call takes no more than its part of the time of an exchange in C."""
    check(gate, "calls", name, lambda: compare_case(name, stock, fast, effort)[0])


@pytest.mark.parametrize("name", LIMITS["clients_of_c"])
def test_clients_of_c(name: str, stock: Any, fast: Any, gate: Gate, effort: Effort) -> None:
    """Many clients take no more than so many times the time of as many pairs in C."""
    check(gate, "clients", name, lambda: compare_fleets(name, stock, fast, effort))


def check(gate: Gate, section: str, name: str, compare: Callable[[], Comparison]) -> None:
    """Apply the limit to what this run has measured already, or else to what it measures now."""
    comparison = gate.report.times.get(section, {}).get(name) or compare()
    assert len(comparison.parts_of_c) == gate.effort.alternations
    if not gate.effort.gated:
        return
    gate.report.add_times(section, name, comparison)
    ceiling = gate.limit(f"{section}_of_c", name)
    if comparison.of_c > ceiling:
        each = ", ".join(f"{part:.2f}" for part in comparison.parts_of_c)
        pytest.fail(
            f"{section}, {name}: fastmgr/C is {comparison.of_c:.2f}, more than {ceiling:g} "
            f"(each: {each})"
        )


@pytest.mark.parametrize(("pairs", "reply", "spin"), [(1, MESSAGE, 0), (8, MESSAGE, SPIN)])
def test_exchange(pairs: int, reply: int, spin: int) -> None:
    """It does what it is told, and ends."""
    with Echo(pairs, reply, seconds=0.001, spin=spin) as echo:
        assert 0 < echo.seconds() < 1
    assert echo.process.returncode == 0


def test_large_reply() -> None:
    """A large reply takes longer than a small one: it is moved."""
    with (
        Echo(1, MESSAGE, seconds=0.001, rounds=3) as small,
        Echo(1, len(MEGABYTE), seconds=0.001, rounds=3) as large,
    ):
        assert large.seconds() > small.seconds()


def test_no_warnings() -> None:
    """The program compiles without a warning."""
    checks = [*compiler(), *FLAGS, "-Werror", "-fsyntax-only", str(SOURCE)]
    subprocess.run(checks, check=True)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("victim", ["the program", "a client or a server"])
def test_nothing_is_left(victim: str) -> None:
    """Whichever process is killed, the others end."""
    echo = Echo(2, MESSAGE, seconds=0.001)
    children = [pid for pid, parent in running().items() if parent == echo.process.pid]
    assert len(children) == 4
    os.kill(echo.process.pid if victim == "the program" else children[0], signal.SIGKILL)
    if victim != "the program":
        with pytest.raises(EOFError):
            echo.time(1)
    echo.close()
    deadline = time.monotonic() + 5
    while left := running().keys() & set(children):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def running() -> dict[int, int]:
    """Return the parent of each process that has not ended."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents
