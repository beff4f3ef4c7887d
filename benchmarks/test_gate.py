"""The gate itself: figures that are worse than they may be fail, whatever their kind."""

import json
from typing import Any

import compare
import pytest
from cases import CALLS, CLIENTS
from cells import CELLS, COMPILED, SECTIONS, CellComparison
from counts import BYTE_CASES, SYSCALL_CASES
from gate import OTHER_BUILD, Gate
from instructions import BUILD, CALL_CASES, CODEC_CASES
from measure import SMOKE, Comparison, Effort
from report import BASELINE, Report
from sabotage import ROOT, SABOTAGES, Sabotage
from valkey_counts import VALKEY_CASES

from fastmgr.cli.bench import FAST, Row

LIMITS: dict[str, Any] = json.loads(BASELINE.read_text())
RATIOS = {"calls": (*CALLS, "create"), "clients": CLIENTS}
COUNTS = {
    "bytes": BYTE_CASES,
    "syscalls": SYSCALL_CASES,
    "threads": ("idle",),
    "idle": tuple(LIMITS["idle"]),
    "instructions": CODEC_CASES + CALL_CASES,
}
MORE = {"bytes": 2, "syscalls": 1, "threads": 2}
"""What has to be noticed in the count of a small operation."""


def cases_of(sections: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return the sections' cases one by one."""
    return [(section, name) for section, names in sections.items() for name in names]


def ratio(value: float) -> Comparison:
    """Return what was measured where stock takes so many times as long as fastmgr."""
    return Comparison(stock=[value * 0.9, value, value * 3], fast=[1.0] * 3)


@pytest.fixture
def strict() -> Gate:
    """A gate that enforces ratios too, and whose report nobody sees."""
    gate = Gate(Report(), Effort())
    gate.baseline["build"] = BUILD
    return gate


@pytest.mark.parametrize(("section", "name"), cases_of(RATIOS))
def test_ratio(section: str, name: str, strict: Gate) -> None:
    """A case that is not as many times faster than stock fails, with the figures."""
    floor = LIMITS[section][name]
    strict.ratio(section, name, ratio(floor))
    with pytest.raises(pytest.fail.Exception) as failure:
        strict.ratio(section, name, ratio(floor * 0.98))
    said = str(failure.value)
    assert said.startswith(f"{section}, {name}: stock/fastmgr is {floor * 0.98:.2f}")
    assert f"less than {floor:g} " in said


def test_smoke() -> None:
    """A short run's ratios mean nothing."""
    Gate(Report(), SMOKE).ratio("calls", "dict_get", ratio(0.1))


@pytest.mark.parametrize(
    ("section", "name"), [(section, name) for section in SECTIONS for name in LIMITS[section]]
)
def test_cell(section: str, name: str, strict: Gate) -> None:
    """What misses a goal in shared memory fails, with the figures."""
    other, limit = SECTIONS[section], LIMITS[section][name]
    strict.baseline |= {one: {name: limit} if one == section else {name: 0} for one in SECTIONS}
    strict.baseline["shared_of_compiled"] = {name: limit} if other == COMPILED else {}

    def measured(times: float) -> CellComparison:
        seconds = {FAST: [1.0] * 3, other: [times * part for part in (0.9, 1, 3)]}
        return CellComparison(Row(CELLS[name], {SECTIONS["shared"]: [1.0] * 3, **seconds}))

    good, bad = (1.02, 0.98)
    of = (
        (lambda part: 1 / (limit * (2 - part)))
        if other == COMPILED
        else (lambda part: limit * part)
    )
    strict.cell(name, measured(of(good)))
    with pytest.raises(pytest.fail.Exception) as failure:
        strict.cell(name, measured(of(bad)))
    assert str(failure.value).startswith(f"{section}, {name}: ")
    assert f" than {limit:g} (each: " in str(failure.value)


def test_every_cell_has_a_goal() -> None:
    """Each case of shared memory has a limit, and there are no others."""
    assert LIMITS["shared"].keys() == CELLS.keys()


@pytest.mark.parametrize(("section", "name"), cases_of(COUNTS))
def test_count(section: str, name: str, strict: Gate) -> None:
    """A case that needs more than it may fails, with the figures."""
    ceiling = LIMITS[section][name]
    worse = ceiling * 1.02 + 0.01
    strict.count(section, name, 12345, ceiling)
    with pytest.raises(pytest.fail.Exception) as failure:
        strict.count(section, name, 12345, worse)
    said = str(failure.value)
    assert said == f"{section}, {name}: {worse:.10g} is more than {ceiling:.10g} (stock: 12345)"


@pytest.mark.parametrize("section", ["valkey_syscalls", "valkey_instructions"])
@pytest.mark.parametrize("name", VALKEY_CASES)
def test_need(section: str, name: str, strict: Gate) -> None:
    """What a call on a Valkey server needs has a limit, though stock has no such call."""
    ceiling = LIMITS[section][name]
    strict.need(section, name, ceiling)
    with pytest.raises(pytest.fail.Exception, match=f"{section}, {name}: .* is more than"):
        strict.need(section, name, ceiling + 0.5)


def test_other_build(strict: Gate) -> None:
    """On another build of Python the instructions' limits are wider, but there are some."""
    name, ceiling = CODEC_CASES[0], LIMITS["instructions"][CODEC_CASES[0]]
    strict.baseline["build"] = "another"
    strict.count("instructions", name, 1, ceiling * OTHER_BUILD)
    with pytest.raises(pytest.fail.Exception, match="is more than"):
        strict.count("instructions", name, 1, ceiling * OTHER_BUILD * 1.01)


def test_no_limit(strict: Gate) -> None:
    """A case without a limit fails: nothing is measured and then not looked at."""
    with pytest.raises(pytest.fail.Exception, match=r"no limit for bytes, nothing"):
        strict.count("bytes", "nothing", 2, 1)
    with pytest.raises(pytest.fail.Exception, match=r"no limit for nothing, dict_get"):
        strict.ratio("nothing", "dict_get", ratio(9))


def test_new_limits(strict: Gate) -> None:
    """Limits made of what was measured let it pass, and notice what they are there to notice."""
    measured = {"bytes": 58.0, "syscalls": 4.05, "threads": 2.0, "instructions": 580.4}
    report = Report()
    for section, figure in measured.items():
        report.add_count(section, "new", 9 * figure, figure)
    report.add_times("calls", "new", ratio(6))
    strict.baseline = compare.new_baseline(report)
    assert strict.baseline["build"] == BUILD
    assert {*LIMITS["calls"], "new"} == {*strict.baseline["calls"]}

    strict.ratio("calls", "new", ratio(6))
    with pytest.raises(pytest.fail.Exception, match="calls, new"):
        strict.ratio("calls", "new", ratio(2))
    for section, figure in measured.items():
        strict.count(section, "new", 9 * figure, figure)
        with pytest.raises(pytest.fail.Exception, match=f"{section}, new"):
            strict.count(section, "new", 9 * figure, figure + MORE.get(section, figure / 8))


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_each_sabotage_finds_its_place(sabotage: Sabotage) -> None:
    """It runs once a week; that its anchor still fits shows here."""
    text = (ROOT / "src" / "fastmgr" / sabotage.file).read_text()
    assert sabotage.apply(text) != text
