"""The bench measures every case, counts exactly, draws, and leaves no process behind."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.processes import await_end_of_group

import fastmgr
from fastmgr.__main__ import main
from fastmgr.cli import bench

TINY = bench.Effort(alternations=2, seconds=0)
CONTENDERS = ("stock manager", "multiprocessing", "fastmgr")
BY_NAME = {case.name: case for case in bench.CASES}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def contenders() -> Iterator[Mapping[str, Any]]:
    with bench.contenders(multiprocessing.get_context("fork")) as names:
        yield names


@pytest.fixture
def found(contenders: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """With a queue of the test's own: the thread that multiprocessing's starts ends with it."""
    queue = multiprocessing.get_context("fork").Queue()
    plain = {**contenders["multiprocessing"], "q": queue}
    yield {**contenders, "multiprocessing": plain}
    queue.close()
    queue.join_thread()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command measure next to nothing."""
    monkeypatch.setattr(bench, "QUICK", TINY)


def run(*arguments: object) -> int:
    return main(["bench", "--quick", "--start-method", "fork", *map(str, arguments)])


def test_each_contender_has_its_own_objects(found: Mapping[str, Any]) -> None:
    assert tuple(found) == CONTENDERS
    packages = [type(names["lock"]).__module__ for names in found.values()]
    assert packages == [
        "multiprocessing.managers",
        "multiprocessing.synchronize",
        "fastmgr.proxies",
    ]


@pytest.mark.parametrize("case", bench.CASES, ids=lambda case: case.name)
def test_each_case_has_a_time_for_each_turn(case: bench.Case, found: Mapping[str, Any]) -> None:
    row = bench.measure(case, found, TINY, multiprocessing.get_context("fork"))
    assert [*row.seconds] == [name for name in CONTENDERS if name in case.statements]
    for name, seconds in row.seconds.items():
        assert len(seconds) == TINY.alternations
        assert min(seconds) > 0
        assert len(row.ratios(name)) == TINY.alternations


@pytest.mark.parametrize("name", ["increment", "crowd"])
def test_totals_are_exact(name: str, found: Mapping[str, Any]) -> None:
    case = BY_NAME[name]
    before = {contender: bench.total(names) for contender, names in found.items()}
    context = multiprocessing.get_context("fork")
    bench.measure(case, found, bench.Effort(alternations=2, seconds=0.001), context)
    added = {who: bench.total(names) - before[who] for who, names in found.items()}
    assert min(added.values()) >= 3 * case.processes  # to calibrate, and two turns


@pytest.mark.parametrize("name", ["increment", "crowd"])
def test_wrong_total_is_noticed(name: str, found: Mapping[str, Any]) -> None:
    running = {child.pid for child in multiprocessing.active_children()}
    processes = BY_NAME[name].processes
    doubled = bench.Case("twice", "twice", {"fastmgr": "counter.incr(2)"}, True, processes)
    with pytest.raises(bench.BenchError, match=r"^twice, fastmgr: \d+ added, \d+ counted$"):
        bench.measure(doubled, found, TINY, multiprocessing.get_context("fork"))
    assert {child.pid for child in multiprocessing.active_children()} == running


def test_failed_process_is_noticed(
    found: Mapping[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    case = bench.Case("bad", "bad", {"fastmgr": "counter.no_such_method()"}, processes=2)
    with pytest.raises(bench.BenchError, match="a process that counts has failed"):
        bench.measure(case, found, TINY, multiprocessing.get_context("fork"))
    assert "no_such_method" in capfd.readouterr().err
    assert {child.pid for child in multiprocessing.active_children()} == before


@pytest.mark.usefixtures("tiny")
def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("medians of 2 turns")
    assert lines[2].split()[:4] == ["stock", "manager", "multiprocessing", "fastmgr"]
    for line, case in zip(lines[3:], bench.CASES, strict=False):
        assert line.startswith(case.label)
        assert line.count(" to ") == case.label.count(" to ") + len(case.statements) - 1
    assert "increments a second together" in lines[-2]
    assert lines[-1] == "All totals are exact."


@pytest.mark.usefixtures("tiny")
def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--alternations", 1) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["alternations"] == 1
    assert [*report["cases"]] == [case.name for case in bench.CASES]
    for name, figures in report["cases"].items():
        assert figures["statements"] == BY_NAME[name].statements
        assert figures["seconds"].keys() == figures["statements"].keys()
        assert figures["ratios"].keys() == figures["statements"].keys() - {"fastmgr"}
        for ratio in figures["ratios"].values():
            assert 0 < ratio["lowest"] == ratio["median"] == ratio["highest"]


@pytest.mark.usefixtures("tiny")
def test_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    assert run("--plot", plot) == 0
    root = ElementTree.parse(plot).getroot()
    texts = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    assert {*CONTENDERS, *(case.label for case in bench.CASES)} <= {*texts}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plot.gif", "the name has to end with .svg, .png or .pdf"),
        ("plot", "the name has to end with .svg, .png or .pdf"),
        ("plot.png", "a plot needs matplotlib"),
    ],
)
def test_what_cannot_be_drawn_is_refused_first(
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as end:
        run("--plot", tmp_path / name)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert not captured.out


@pytest.mark.usefixtures("tiny")
def test_plot_that_cannot_be_written_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "plot.svg").mkdir()
    assert run("--plot", tmp_path / "plot.svg") == 1
    captured = capsys.readouterr()
    assert "All totals are exact." in captured.out  # what was measured is not lost
    assert captured.err.startswith("fastmgr bench: ")


def test_command_fails_where_there_is_no_stock_manager() -> None:
    code = "import fastmgr; fastmgr.install(); from fastmgr.__main__ import main; main(['bench'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "there is nothing to compare" in done.stderr
    assert "Traceback" not in done.stderr
    assert not fastmgr.installed()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (4.04e-8, "40.4 ns"),
        (9.996e-7, "1.00 µs"),
        (1.5e-4, "150 µs"),
        (0.0123, "12.3 ms"),
        (2, "2.00 s"),
    ],
)
def test_times_are_readable(seconds: float, said: str) -> None:
    assert bench.shown_time(seconds) == said


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(0.534, "0.53"), (9.994, "9.99"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234")],
)
def test_ratios_are_readable(ratio: float, said: str) -> None:
    assert bench.shown_ratio(ratio) == said


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_every_start_method_counts_in_silence(method: str) -> None:
    options = ["--quick", "--alternations", "1", "--json", "--start-method", method]
    command = [sys.executable, "-m", "fastmgr", "bench", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert json.loads(done.stdout)["cases"].keys() == BY_NAME.keys()
    assert done.stderr == ""  # neither the managers nor the processes that count complain


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_interrupt_ends_everything(method: str) -> None:
    """Ctrl-C reaches every process of the terminal, so here every process of the session."""
    options = ["--quick", "--alternations", "5", "--start-method", method]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "fastmgr", "bench", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("add 1"):  # the next is the case of several processes
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted\n"
    await_end_of_group(process.pid)
