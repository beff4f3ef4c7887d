"""What the pages and doc strings show works: Python is run, commands are run or looked up.

In Python blocks `expression  # -> value` and `statement  # raises Error` are promises, and kept.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from support import valkeys
from support.services import service

import fastmgr
from fastmgr.__main__ import _parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
PAGES.remove(ROOT / "CHANGELOG.md")
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()

# Page and first line of the blocks that cannot run, and why.
CANNOT_RUN = {
    ("docs/architecture.md", first): "a drawing"
    for first in ("client thread server process", "where it is", "how it ended")
}
CANNOT_RUN["docs/monitoring.md", "deadlock: 3 threads"] = "what a command prints"

# What the text around a page's fragments takes for granted.  Blocks that begin with an import are
# programs of their own, and get nothing.
GIVEN = {
    "docs/valkey.md": """
import re
import fastmgr
place = fastmgr.SyncManager(address="valkey+embedded://")
place.start()
class SyncManager(fastmgr.SyncManager):
    def __init__(self, address):  # a private server stands for that of the page
        if "cache.example:" in address:
            address = place.address.replace("valkey+embedded", "valkey+unix") + "?ns=shop"
        super().__init__(address)
""",
}

#: Where a program of the pages finds a server that `fastmgr serve` runs.
SERVED = "/run/fastmgr"
#: The same on another machine, and the file that has its key.
REMOTE, KEY_FILE = '("cache.example", 5000)', "/etc/fastmgr/authkey"

#: Commands that cannot run here, and why that does no harm.
ELSEWHERE = {
    "gunicorn --workers 4 web:wsgi": "test_services.py runs it",
    "docker compose -f docs/deploy/compose.yml up": "test_services.py runs what is in it",
    "ssh -N -L /tmp/cache.sock:/run/fastmgr/server.sock cache.example": "there is no other machine",
}

#: What pages show beside fastmgr, and not every Python has.
OTHERS = re.compile(r"^ *(?:import|from) (joblib|numpy|pandas)\b", re.MULTILINE)

# Options that keep the commands of fastmgr small.
SMALL = {
    "bench": ["--quick", "--alternations", "1"],
    "demo": ["--files", "3", "--workers", "1", "--no-stock"],
}


class Block(NamedTuple):
    """A block of a page: the language, and the lines with the number of the first."""

    language: str
    start: int
    text: str


def fenced(text: str) -> list[Block]:
    """The fenced blocks of a page, none of which is overlooked."""
    found = [
        Block(match[2], text.count("\n", 0, match.start()) + 2, textwrap.dedent(match[3]))
        for match in re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE)
    ]
    assert len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) == 2 * len(found)
    return found


def literal(text: str) -> list[Block]:
    """The blocks of a doc string that follow a `::`."""
    return [
        Block("python", text.count("\n", 0, match.start(1)) + 1, textwrap.dedent(match[1]))
        for match in re.finditer(r"::\n\n((?:(?: +.*)?(?:\n|$))+)", text)
    ]


def programs(blocks: list[Block], given: str = "") -> list[str]:
    """Whole programs, and one of all fragments; a line has the number that it has on the page."""
    python = [block for block in blocks if block.language == "python"]
    whole = [block for block in python if re.match(r"(import|from) ", block.text)]
    fragments = [block for block in python if block not in whole]
    found = ["\n" * (block.start - 1) + block.text for block in whole]
    if fragments:
        lines = given.splitlines()
        for block in fragments:
            lines += [""] * (block.start - 1 - len(lines)) + block.text.splitlines()
        found.append("\n".join(lines))
    return [checked(text) for text in found]


def checked(program: str) -> str:
    """The program, which now keeps what its comments promise."""
    loose = re.findall(r"^.*\S  # (?:\d|[\"'\[({]|True\b|False\b|None\b).*$", program, re.MULTILINE)
    assert not loose, f"write '# -> value' for what has to come out: {loose}"
    program = re.sub(
        r"(?m)^( *)(.+?)  # -> (.+)$", r"\1assert (came := (\2)) == (\3), came", program
    )
    program = re.sub(r"came := \(print\((.+)\)\)\) == ", r"came := (\1)) == ", program)
    raises = r'\1with __import__("pytest").raises(\3): \2'
    return re.sub(r"(?m)^( *)(.+?)  # raises (\w+)$", raises, program)


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands(text: str) -> list[str]:
    """The lines of a page's shell blocks, and what its sentences quote of make and Python."""
    blocks = fenced(text)
    lines = [line for b in blocks if b.language == "sh" for line in b.text.splitlines() if line]
    prose = re.sub(r"^( *)```(?:.*\n)*?\1```$", "", text, flags=re.MULTILINE)
    quoted = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    is_command = re.compile(r"make \S|\S*python (-m |\S+\.py)")
    uncommented = [line.partition(" #")[0].strip() for line in lines]
    return [*uncommented, *filter(is_command.match, quoted)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def sources() -> list[tuple[str, str]]:
    """Every Python program of the pages and of the package's doc string.

    Those of the public names are in tests/docs/test_docstrings.py.
    """
    blocks = {name(page): fenced(page.read_text()) for page in PAGES}
    blocks["fastmgr"] = literal(inspect.getdoc(fastmgr) or "")
    return [
        (key, program) for key in blocks for program in programs(blocks[key], GIVEN.get(key, ""))
    ]


@pytest.mark.parametrize("program", [pytest.param(text, id=key) for key, text in sources()])
def test_program_runs(program: str, tmp_path: Path) -> None:
    if "valkey+embedded://" in program:
        valkeys.program("valkey")
    for match in OTHERS.finditer(program):
        pytest.importorskip(match[1])
    with contextlib.ExitStack() as stack:
        if SERVED in program:
            stack.enter_context(service("--address", str(tmp_path / "server.sock")))
            program = program.replace(SERVED, str(tmp_path))
        if REMOTE in program:
            key, port = tmp_path / "authkey", valkeys.free_port()
            key.write_text("key of the page\n")
            how = ("--address", f"127.0.0.1:{port}", "--authkey-file", str(key))
            stack.enter_context(service(*how))
            program = program.replace(REMOTE, f'("127.0.0.1", {port})').replace(KEY_FILE, str(key))
        if re.search("^def test_", program, re.MULTILINE):
            (tmp_path / "test_page.py").write_text(program)
            run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
            return
        if "__main__" not in program:
            run(sys.executable, "-c", program, cwd=tmp_path)  # spawned children do not import that
            return
        (tmp_path / "program.py").write_text(program)
        run(sys.executable, "program.py", cwd=tmp_path)


def test_page_of_tests_shows_what_is_left_behind(tmp_path: Path) -> None:
    """The lock of the page's example is noticed where the fixture is not told to let it be."""
    blocks = fenced((ROOT / "docs/howto/testing.md").read_text())
    (program,) = (text for text in programs(blocks) if "check=False" in text)
    (tmp_path / "test_page.py").write_text(program.replace("check=False", ""))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "has left behind: a Lock is still held by process" in done.stdout, done.stdout
    assert done.returncode == 1 and "1 error" in done.stdout


COMMANDS = dict.fromkeys(line for page in PAGES for line in commands(page.read_text()))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_right(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    if command in ELSEWHERE:
        pytest.skip(ELSEWHERE[command])
    if program == "sudo":
        pytest.skip("it changes the machine")
    if program == "make":
        for word in words:
            variable, is_variable, _ = word.partition("=")
            wanted = rf"\$\({variable}\)" if is_variable else rf"^{word}:"
            assert re.search(wanted, MAKEFILE, re.MULTILINE), f"the Makefile has no {word}"
        return
    if program == "valkey-cli":
        cli = shutil.which("valkey-cli") or shutil.which("redis-cli")
        if cli is None:
            pytest.skip("neither valkey-cli nor redis-cli is installed")
        with valkeys.manager(ns="shop") as manager:
            held = manager.dict(a=1)
            told = run(cli, "-s", valkeys.path_of(manager.address), *words, cwd=tmp_path)
            assert told.strip() not in ("", "(empty array)") or "0123456789abcdef" in command
            assert "ERR" not in told and held is not None
        return
    if words[:3] == ["-m", "fastmgr", "doctor"]:  # what it ends with is a matter of the machine
        program, *words = words[1:]
    if program == "fastmgr":
        assert _parser(words[0]).parse_args(words).run
        return
    assert program.endswith("python"), "neither make nor Python: this test has to learn of it"
    if words[:2] == ["-m", "fastmgr"]:
        (tmp_path / "program.py").touch()
        if any(word.startswith("valkey") for word in words):
            valkeys.program("valkey")
        run(sys.executable, *words, *SMALL.get(words[2], []), cwd=tmp_path)
        return
    # The rest takes long or changes the checkout: its files are there, and it knows its options.
    for word in words:
        assert "/" not in word or (ROOT / word).exists(), f"there is no {word}"
    if words[:4] == ["-m", "pip", "install", "--group"]:
        assert re.search(rf"^{words[4]} = \[", PYPROJECT, re.MULTILINE), f"no group {words[4]}"
        return
    if words[:3] == ["-m", "pip", "install"]:
        (what,) = words[3:]
        named = re.fullmatch(r"(?:\.|fastmgr)(?:\[([\w,]+)\])?", what)
        assert named, "this use of pip the test has to learn"
        for extra in (named[1] or "").split(","):
            assert not extra or re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE), extra
        return
    start = 2 if words[0] == "-m" else 1
    options = [word for word in words[start:] if word.startswith("-")]
    told = run(sys.executable, *words[:start], "--help", cwd=ROOT) if options else ""
    for option in options:
        assert re.search(rf"(?<!\S){option}(?![\w-])", told), f"there is no option {option}"


def test_no_block_is_left_out() -> None:
    left_out = {
        (name(page), " ".join(block.text.splitlines()[0].split()))
        for page in PAGES
        for block in fenced(page.read_text())
        if block.language not in ("python", "sh") and not block.language.startswith("{")  # Sphinx's
    }
    assert left_out == CANNOT_RUN.keys()


@pytest.mark.parametrize(
    "broken",
    [
        "1 + 1  # -> 3",
        "print(1 + 1)  # -> 3",
        "{}[1]  # raises ValueError",
        "[1]  # raises KeyError",
    ],
)
def test_promise_that_is_not_kept_is_noticed(broken: str) -> None:
    exec(checked("1 + 1  # -> 2\n{}[1]  # raises KeyError"))
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        exec(checked(broken))
