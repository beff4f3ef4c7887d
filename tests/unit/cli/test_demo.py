"""The demo counts exactly, says so, and leaves no process behind when it fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import await_end_of_group
from support.valkeys import program

from fastmgr.__main__ import main
from fastmgr.cli import demo


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Four files that count, one of them in another encoding than most, and two that do not."""
    texts = {
        "a.py": b"spam = eggs\n",
        "b.py": b"spam()\nspam.eggs  # 2 x2\n",
        "latin.py": b"'\xe9' 'ham'\n",
        "package/c.py": b"import ham\n",
        "site-packages/d.py": b"ham\n",
        "data.txt": b"ham\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
    return demo.python_files(tmp_path)


def count_alone(files: list[Path]) -> demo.Result:
    return demo.count_alone(files, "")


def count_shared(
    files: list[Path], contender: demo.Contender, expected: demo.Result
) -> demo.Result:
    context = multiprocessing.get_context("fork")
    return demo.count_shared(files, "", contender, 2, context, expected)


def test_files_are_those_of_the_library_itself(sources: list[Path]) -> None:
    assert [path.name for path in sources] == ["a.py", "b.py", "latin.py", "c.py"]


def test_words_begin_with_a_letter(sources: list[Path]) -> None:
    assert demo.count_words(sources[1]) == {"spam": 2, "eggs": 1, "x2": 1}


@pytest.mark.parametrize(
    "contender", [demo.FAST, demo.COUNTERS, demo.STOCK], ids=lambda way: way.name
)
def test_shared_count_equals_the_count_alone(
    sources: list[Path], contender: demo.Contender
) -> None:
    alone = count_alone(sources)
    shared = count_shared(sources, contender, alone)
    assert alone.words == shared.words
    assert shared.words == {"spam": 3, "eggs": 2, "x2": 1, "import": 1, "ham": 2}
    assert shared.total == 9


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SECONDS_BETWEEN_LINES", 0)
    with demo.progress("some files", 4) as show:
        show(1)
    assert capsys.readouterr().err == "some files: 1 of 4 files\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    with demo.progress("some files", 4) as show:
        show(2)
    drawn = f"some files [{'#' * 14}{'.' * 15}]     2 of 4 files"
    assert capsys.readouterr().err.split("\r")[1:] == [drawn, " " * 59, ""]


@pytest.mark.parametrize("columns", [1, 10, 30, 40, 59, 79, 200])
def test_bar_fits_its_line(columns: int) -> None:
    lines = [demo.bar("fastmgr, Counters, 2 workers", done, 150, columns) for done in (0, 150)]
    assert len(lines[0]) == len(lines[1]) <= columns
    assert columns < 59 or "150 of 150 files" in lines[1]


def test_failing_worker_shows_its_traceback_and_ends_the_count(
    sources: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(path: object) -> None:
        raise LookupError("no words today")

    before = multiprocessing.active_children()
    alone = count_alone(sources)
    monkeypatch.setattr(demo, "count_words", fail)
    with pytest.raises(demo.WorkerError, match=r"Worker-[12] failed with exit status 1"):
        count_shared(sources, demo.FAST, alone)
    assert "LookupError: no words today" in capfd.readouterr().err
    assert multiprocessing.active_children() == before


def test_command_prints_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--files", "5", "--workers", "2"]) == 0
    report = capsys.readouterr().out
    assert "different ones" in report
    assert "All totals are exact." in report
    assert "fastmgr, 2 workers" in report
    assert "fastmgr, Counters, 2 workers" in report
    assert "multiprocessing, 2 workers" in report
    assert "times as fast, with Counters" in report


def test_command_fails_when_a_total_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def miscount(*_arguments: object) -> demo.Result:
        return demo.Result({"A": 1}, 1.0)

    monkeypatch.setattr(demo, "count_shared", miscount)
    assert main(["demo", "--files", "1"]) == 1
    assert "A: expected 0, got 1" in capsys.readouterr().out


def test_command_fails_when_a_worker_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        raise LookupError("no lock today")

    monkeypatch.setattr(demo.Shared, "add", fail)
    options = ["--files", "2", "--workers", "2", "--start-method", "fork", "--no-stock"]
    assert main(["demo", *options]) == 1
    errors = capfd.readouterr().err
    assert "LookupError: no lock today" in errors
    assert "fastmgr, 2 workers: Worker-" in errors


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_interrupt_ends_everything(method: str) -> None:
    """Ctrl-C reaches every process of the terminal, so here every process of the session."""
    command = [sys.executable, "-u", "-m", "fastmgr", "demo", "--no-stock", "--workers", "2"]
    demo_process = subprocess.Popen(
        [*command, "--all", "--start-method", method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo_process.stdout is not None
    for line in demo_process.stdout:
        if line.startswith("one process"):
            break
    time.sleep(0.3)  # somewhere in the middle of the shared count
    os.killpg(demo_process.pid, signal.SIGINT)
    _, errors = demo_process.communicate(timeout=60)
    assert demo_process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
    await_end_of_group(demo_process.pid)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_command_counts_on_a_server_of_another_kind(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program("valkey")
    options = ["--files", "5", "--workers", "2", "--start-method", method]
    assert main(["demo", "--address", "valkey+embedded://", *options]) == 0
    report = capsys.readouterr().out
    assert "All totals are exact." in report
    assert "fastmgr, pipelines, 2 workers" in report
    assert "The stock manager has no such addresses: it is left out." in report


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("nothing://", "no engine has the scheme nothing://"),
        ("valkey://of:secret@localhost:1", "nothing serves at 'valkey://of@localhost:1'"),
    ],
)
def test_command_says_what_is_wrong_with_an_address(
    address: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--address", address]) == 1
    said = capsys.readouterr()
    assert error in said.err
    assert said.out == ""
