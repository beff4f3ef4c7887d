"""The tests themselves: short files, each named after what it tests, and none imports another."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import in_child

TESTS = Path(__file__).parents[1]
UNIT = TESTS / "unit"
PACKAGE = TESTS.parent / "src" / "fastmgr"
BUDGET = 800
#: Files of the public face as a whole, and of the repository.
WHOLE = {"rooms", "signatures", "tests"}
#: Modules and rooms that have no unit test file named after them, and why: only ever fewer.
ELSEWHERE = {
    "engines/valkey": "its modules are tested together, with a server of their own",
    "kinds/standard": "a list of rows, which tests/unit/kinds/test_rows.py looks at",
}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, with what it imports from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_no_test_imports_another() -> None:
    """What tests share is in `tests/support`, or a fixture of a conftest.py."""
    assert not [
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("*.py")
        for name in imported(path)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]


def test_files_read_in_one_sitting() -> None:
    lines = {
        str(path.relative_to(TESTS)): len(path.read_text().splitlines())
        for path in TESTS.rglob("*")
        if path.suffix in (".py", ".pyx")
    }
    assert not {name: count for name, count in lines.items() if count > BUDGET}


def modules(room: Path) -> set[str]:
    """The names of the modules and headers of a room."""
    found = (PACKAGE / room).glob("*.*")
    return {
        path.stem.strip("_")
        for path in found
        if path.suffix in (".py", ".pyx", ".pxd", ".h") and path.stem != "__init__"
    }


def test_unit_tests_are_named_after_modules() -> None:
    """As ``test_<module>.py`` or ``test_<module>_<matter>.py``, in the folder of the room."""
    strays = []
    for path in UNIT.rglob("test_*.py"):
        room, name = path.parent.relative_to(UNIT), path.stem.removeprefix("test_")
        known = modules(room) | (WHOLE if room == Path() else set())
        if not any(name == module or name.startswith(f"{module}_") for module in known):
            strays.append(str(path.relative_to(TESTS)))
    assert not strays


def test_each_module_has_its_unit_tests() -> None:
    """A header or a .pxd alone needs none: the tests of the modules that use it have it."""
    known = {path.relative_to(UNIT).with_suffix("").as_posix() for path in UNIT.rglob("test_*.py")}
    untested = set()
    for path in (path for kind in ("*.py", "*.pyx") for path in PACKAGE.rglob(kind)):
        module = path.relative_to(PACKAGE).with_suffix("")
        own = (module.parent / f"test_{module.name.strip('_')}").as_posix()
        tested = any(name == own or name.startswith(f"{own}_") for name in known)
        if module.name != "__init__" and not tested:
            untested.add(module.as_posix())
    excused = {
        module: name
        for name in ELSEWHERE
        for module in untested
        if module == name or module.startswith(f"{name}/")
    }
    assert untested == excused.keys()
    assert ELSEWHERE.keys() == set(excused.values())  # no longer on the list


def side_by_side(folder: Path, *bodies: str) -> tuple[int, list[str]]:
    """The status and the words of `sides.py`, with a part for each body of a test."""
    words: list[object] = []
    for number, body in enumerate(bodies):
        path = folder / f"test_{number}.py"
        path.write_text(f"def test_{number}():\n    {body}\n")
        words += [path, "--"]
    done = subprocess.run(
        [sys.executable, TESTS / "sides.py", *words, f"--rootdir={folder}"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(("other", "status"), [("assert True", 0), ("assert False", 1)])
def test_parts_run_side_by_side_are_summed_up(tmp_path: Path, other: str, status: int) -> None:
    found, said = side_by_side(tmp_path, "assert True", other, "assert True")
    assert found == status, said
    assert said[-1].startswith("1 failed, 2 passed in" if status else "3 passed in")


def test_a_part_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tests have; a thread that waits for ever keeps the interpreter."""
    monkeypatch.setenv("FASTMGR_TEST_ENDING", "1")
    stays = "import threading; threading.Thread(target=threading.Event().wait).start()"
    found, said = side_by_side(tmp_path, stays)
    assert found == 1
    assert said[-1].startswith("1 failed, 1 passed in")
    assert "FAILED, its tests have ended" in said[-2] and any("in wait" in line for line in said)


def test_who_is_told_to_end_ends_in_order() -> None:
    """What the tests have started ends then; a process that they fork just ends."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert in_child(lambda: signal.getsignal(signal.SIGTERM).name) == (0, "'SIG_DFL'")  # type: ignore[union-attr]
