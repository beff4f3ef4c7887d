"""Programs that name the managers of the standard library, run with ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.valkeys import program
from support.waiting import DEADLINE

PROGRAM = """
import multiprocessing, sys
import beside

def count(counts):
    counts["n"] += beside.ONE

if __name__ == "__main__":
    with multiprocessing.Manager() as manager:
        counts = manager.dict(n=0)
        child = multiprocessing.Process(target=count, args=(counts,))
        child.start()
        child.join()
        print(type(manager).__module__, manager.address, counts["n"], sys.argv[1:], __name__)
    sys.exit(3)
"""


@pytest.fixture
def stock_program(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    path = tmp_path / "stock_program.py"
    path.write_text(PROGRAM)
    return path


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastmgr", "run", *words],
        capture_output=True, text=True, timeout=2 * DEADLINE, cwd=cwd,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_stock_program(stock_program: Path, method: str) -> None:
    done = run("--start-method", method, str(stock_program), "-a", "--start-method", "b")
    assert done.returncode == 3, done.stderr
    ours, address, *rest = done.stdout.split(maxsplit=2)
    assert ours == "fastmgr.managers" and "://" not in address
    assert rest == ["1 ['-a', '--start-method', 'b'] __main__\n"]


def test_a_module_at_an_address(stock_program: Path) -> None:
    program("valkey")
    done = run("--address", "valkey+embedded://", "-m", "stock_program", cwd=stock_program.parent)
    assert done.returncode == 3, done.stderr
    ours, address, *rest = done.stdout.split(maxsplit=2)
    assert ours == "fastmgr.managers" and address.startswith("valkey+embedded:///")
    assert rest == ["1 [] __main__\n"]


def test_a_program_that_fails(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("1 / 0")
    done = run("program.py", cwd=tmp_path)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    done = run("another.py", cwd=tmp_path)
    complaint = "python -m fastmgr run: there is no file 'another.py'\n"
    assert (done.returncode, done.stderr) == (2, complaint)
