"""The command line as a whole: its help, its version, and a reader that goes away."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import fastmgr
from fastmgr.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_is_plain_text(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    said = capsys.readouterr().out
    assert "usage: python -m fastmgr" in said and "`" not in said


def test_interrupt_while_a_command_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert main(["top", "/socket"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_fits_the_terminal(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = capsys.readouterr().out.partition("\noptions:")[0].partition("\n\n")[2]
    prose = [line for line in text.splitlines() if not line.startswith("    ")]  # not an example
    assert prose and max(map(len, prose)) <= 60


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sreve"])
    assert "serve" in capsys.readouterr().err


def test_script_of_the_package_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = entry_points(group="console_scripts", name="fastmgr")
    assert script.load() is main
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fastmgr", "health", "--help"])
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        main()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"fastmgr {fastmgr.__version__}\n"


def test_terminal_that_has_few_characters() -> None:
    """What it cannot show is escaped, as the unit of a duration, and it is no error."""
    with fastmgr.SyncManager(authkey=b"key") as manager:
        done = subprocess.run(
            [sys.executable, "-m", "fastmgr", "doctor", manager.address],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii", "FASTMGR_AUTHKEY": "key"},
            timeout=100,
        )
    assert b"a small call takes " in done.stdout and not done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_what_is_printed(unbuffered: str) -> None:
    """As in ``python -m fastmgr demo | head -1``."""
    command = [sys.executable, "-m", "fastmgr", "demo", "--files", "2", "--workers", "1"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*command, "--no-stock"],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=100,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
