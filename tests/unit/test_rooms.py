"""The rooms of the package: arrows run one way, and a client does without the server."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, call_in_subprocess

import fastmgr

DOCS = Path(__file__).parents[2] / "docs"
SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def rooms() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "rooms.py"))


def test_no_import_runs_back(rooms: dict[str, Any]) -> None:
    assert not rooms["backward"]()


def test_the_search_finds_imports_of_every_kind(rooms: dict[str, Any]) -> None:
    found = {(one.importer, one.imported) for one in rooms["imports"]()}
    assert {
        ("basemanager", "server.process"),  # in a function
        ("client.proxy", "client.session"),  # a cimport
        ("link.stream", "memory.segments"),  # in a .pxd, too
        ("server.calls", "kinds.rows"),  # a module by its package
    } <= found
    assert ("managers", "server.sharedmemory") not in found  # only for type checkers


PLANTED = [
    ("server/x.py", "import fastmgr.link.stream", "link.stream"),
    ("server/x.py", "import os, fastmgr.link.stream as s", "link.stream"),
    ("server/x.py", "import fastmgr", "__init__"),
    ("server/x.py", "from fastmgr import managers", "managers"),
    ("server/x.py", "from fastmgr.link import stream", "link.stream"),
    ("server/x.py", "from fastmgr.link.stream import Stream", "link.stream"),
    ("server/x.py", "from .table import Table", "server.table"),
    ("server/x.py", "from . import table", "server.table"),
    ("server/x.py", "from ..link.stream import Stream", "link.stream"),
    ("server/x.py", "from .. import managers", "managers"),
    ("x.py", "from .server import table", "server.table"),
    ("x.py", "def f():\n    if not TYPE_CHECKING:\n        import fastmgr.cli.demo", "cli.demo"),
    ("x.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import fastmgr.cli.demo", "cli.demo"),
    ("server/x.pyx", "cimport fastmgr.link.stream", "link.stream"),
    ("server/x.pyx", "import os, fastmgr.link.stream as s  # why", "link.stream"),
    ("server/x.pxd", "from fastmgr.link cimport stream", "link.stream"),
    ("server/x.pyx", "from fastmgr.link.stream cimport (\n    A,  # why\n    B,\n)", "link.stream"),
    ("server/x.pyx", "    from .table cimport Table", "server.table"),
    ("server/x.pyx", "from . cimport table", "server.table"),
    ("server/x.pyx", "from ..link.stream import Stream", "link.stream"),
    ("x.py", "if TYPE_CHECKING:\n    import fastmgr.cli.demo", None),
    ("x.py", "if typing.TYPE_CHECKING:\n    import fastmgr.cli.demo", None),
    ("x.py", "if not TYPE_CHECKING:\n    pass\nelse:\n    import fastmgr.cli.demo", None),
    ("x.py", "import fastmgrs.cli.demo, os", None),
]


@pytest.mark.parametrize(("path", "text", "imported"), PLANTED)
def test_the_search_finds_what_is_planted(
    path: str, text: str, imported: str | None, rooms: dict[str, Any]
) -> None:
    assert rooms["imported_by"](Path(path), text) == ({imported} if imported else set())


def test_the_drawing_is_of_today(rooms: dict[str, Any]) -> None:
    """`make graph` draws it."""
    assert (DOCS / "rooms.svg").read_text() == rooms["draw"]()


def use_a_manager(address: Any) -> list[str]:
    manager = ProbeManager(address, KEY)
    manager.connect()
    assert manager.list([1])[0] == 1
    manager.Counter().incr()
    with manager.Lock():
        return [name for name in sys.modules if name.startswith("fastmgr.")]


def modules_of_what_only_a_server_needs() -> list[str]:
    from fastmgr.server import server, sharedmemory

    found = (server.Server, server.all_methods, server.public_methods)
    return [one.__module__ for one in (*found, sharedmemory.SharedMemoryServer)]


def test_users_see_names_that_they_can_import() -> None:
    """Whoever asks first, and in whichever room the thing lives."""
    assert set(call_in_subprocess(modules_of_what_only_a_server_needs)) == {"fastmgr.managers"}
    for name in fastmgr.__all__:
        thing = getattr(fastmgr, name)
        if isinstance(thing, (type, types.FunctionType)) and thing is not fastmgr.Value:
            assert thing.__module__.count(".") <= 1
    assert repr(fastmgr.OnewayError) == "<class 'fastmgr.OnewayError'>"
    assert pickle.loads(pickle.dumps(fastmgr.OnewayError)) is fastmgr.OnewayError


def start_a_manager(method: str) -> list[str]:
    with ProbeManager(authkey=KEY, ctx=multiprocessing.get_context(method)):
        return [name for name in sys.modules if name.startswith("fastmgr.server")]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_who_forks_no_server_loads_none(method: str) -> None:
    with Script(start_a_manager, method) as script:
        assert script.line() == []


def test_a_client_loads_no_server_nor_what_a_server_hosts() -> None:
    """An extension module costs a third of a millisecond at every start of a program."""
    with ProbeManager(authkey=KEY) as manager, Script(use_a_manager, manager.address) as script:
        loaded: list[str] = script.line()
    assert not [name for name in loaded if name.startswith(("fastmgr.server", "fastmgr._core"))]
    sources = {name: SRC / f"{name.replace('.', '/')}.pyx" for name in loaded}
    compiled = [name for name, source in sources.items() if source.exists()]
    assert {name for name in compiled if ".kinds." in name} == {
        "fastmgr.kinds.verbs",  # whose texts `help` shows
        "fastmgr.kinds.words",
    }
    assert len(compiled) <= 22


#: Modules above the budget of lines, each with what it may have at most: only ever less.
LONG: dict[str, int] = {}
BUDGET = 600


def test_modules_read_in_one_sitting() -> None:
    """CONTRIBUTING says about 400 lines; what is above 600 is named here, and grows no more."""
    package = DOCS.parent / "src" / "fastmgr"
    lines = {
        path.relative_to(package).as_posix(): len(path.read_text().splitlines())
        for path in package.rglob("*")
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h")
    }
    assert {name for name, count in lines.items() if count > LONG.get(name, BUDGET)} == set()
    assert {name for name in LONG if lines[name] <= BUDGET} == set()  # no longer on the list


#: Functions above the budget of lines, each with what it may have at most: only ever less.
LONG_FUNCTIONS: dict[str, int] = {}
FUNCTION_BUDGET = 60
FUNCTION = re.compile(
    r"( *)(?:(?:async )?def |cp?def (?!class|enum|struct|packed|extern)[^=(]*?)(\w+)\("
)


def functions(text: str) -> dict[str, int]:
    """Return the lines of each function of a source, from its name to its last statement."""
    lines = text.splitlines()
    found: dict[str, int] = {}
    for start, line in enumerate(lines):
        if head := FUNCTION.match(line):
            body = start
            while not lines[body].rstrip().endswith((":", "...")):
                body += 1
            end = body
            for number in range(body + 1, len(lines)):
                text_of_it = lines[number].lstrip()
                if text_of_it and len(lines[number]) - len(text_of_it) <= len(head[1]):
                    break
                end = number if text_of_it else end
            found[head[2]] = max(found.get(head[2], 0), end - start + 1)
    return found


def test_lines_of_functions_are_counted() -> None:
    text = """
class A:
    def one(self): ...

    cdef int two(
        self, int a,
        int b
    ) except -1:
        return 0

    # of the next
    cdef inline bint three(self) noexcept:

        if True:
            pass

cdef enum:
    FOUR = 4
"""
    assert functions(text) == {"one": 1, "two": 5, "three": 4}


def test_functions_fit_on_a_screen() -> None:
    package = DOCS.parent / "src" / "fastmgr"
    lines = {
        f"{path.relative_to(package).as_posix()} {name}": count
        for path in package.rglob("*")
        if path.suffix in (".py", ".pyx")
        for name, count in functions(path.read_text()).items()
    }
    budget = {name for name, count in lines.items() if count > FUNCTION_BUDGET}
    assert {name for name in budget if lines[name] > LONG_FUNCTIONS.get(name, 0)} == set()
    assert set(LONG_FUNCTIONS) <= budget  # no longer on the list
    assert len(lines) > 1000
