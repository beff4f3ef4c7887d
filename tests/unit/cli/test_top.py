"""What `top` prints without a screen, and when it shows none."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, call_in_subprocess, in_thread, stopped
from support.reports import hostile, report

from fastmgr.cli.tables import Sight
from fastmgr.cli.top import as_lines
from fastmgr.monitor import ServerReport

Say = Callable[..., tuple[int, str]]


def work(address: str, calls: int) -> None:
    """Make calls of one object, as a process of its own."""
    manager = ProbeManager(address, KEY)
    manager.connect()
    shared = manager.dict()
    for number in range(calls):
        shared[number] = number
    for _ in range(3):
        with contextlib.suppress(KeyError):
            shared.pop("none")
    print("true", flush=True)
    sys.stdin.readline()


def seen(manager: Any, say: Say) -> dict[str, Any]:
    status, said = say("top", manager.address, "--once", "--json")
    assert status == 0
    report: dict[str, Any] = json.loads(said)
    return report


def test_counts_of_a_known_load_are_exact(say: Say) -> None:
    """Two processes make so many calls each, of which so many fail: no more, and no less."""
    with ProbeManager(authkey=KEY) as manager:
        before = seen(manager, say)
        with (
            Script(work, manager.address, 250) as one,
            Script(work, manager.address, 150) as other,
        ):
            assert one.line() and other.line()
            after = seen(manager, say)
            objects = sorted(item["calls"] for item in after["objects"] if item["typeid"] == "dict")
            assert objects == [153, 253]
            clients = {client["pid"]: client for client in after["clients"]}
            assert clients[one.pid]["calls"] == 253 and clients[other.pid]["calls"] == 153
            assert [clients[script.pid]["errors"] for script in (one, other)] == [3, 3]
            assert after["server"]["calls"] - before["server"]["calls"] == 406
            assert after["server"]["errors"] - before["server"]["errors"] == 6


def test_report_as_text(manager: Any, objects: Any, say: Say) -> None:
    shared = manager.dict(a=1)
    objects[0].incr()
    status, said = say("top", manager.address, "--once", "--interval", "0.01")
    assert status == 0
    lines = said.splitlines()
    assert lines[0].startswith("fastmgr ") and manager.address in lines[0]
    assert "0 calls/s" in lines[0]
    assert any(line.split()[0] == "hits" for line in lines[3:] if line)
    assert "memory: shared" in lines[-1]
    del shared


def test_names_that_would_command_the_terminal() -> None:
    lines = as_lines(Sight(hostile()), "/socket")
    assert all(line.isprintable() for text in lines for line in text.split("\n"))
    assert str(lines).count("red") > 10


def test_narrow_terminals() -> None:
    head = as_lines(Sight(report(locks=())), "/socket", 60)
    assert len(head[1]) <= 60 and "(no room for: in, out" in " ".join(head)


def test_numbers_of_one() -> None:
    said = report(server=ServerReport(clients=1, connections=1, backlog=1))
    facts = Sight(said).facts()
    assert "1 client" in facts and facts[-1] == "1 connection to be accepted"


def test_client_that_asks_is_told_apart(manager: Any, say: Say) -> None:
    """The command itself is a client, of that name."""
    said = say("top", manager.address, "--once")[1]
    assert "fastmgr top" in said


def test_what_does_not_go_together(manager: Any, say: Say) -> None:
    assert "--json is for --once" in say("top", manager.address, "--json")[1]
    assert "leave one of the two" in say("top", manager.address, "--once", "--web")[1]
    status, said = say("top", manager.address)
    assert status == 2 and "a screen needs a terminal; --once" in said


def test_server_that_is_not_there(say: Say, tmp_path: Any) -> None:
    status, said = say("top", str(tmp_path / "socket"), "--once")
    assert status == 1 and "nobody serves there" in said and said.count("\n") == 1


def test_extra_that_is_missing(manager: Any, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "textual" in name else find(name)
    )
    status, said = say("top", manager.address, "--web")
    assert status == 2 and said.count("\n") == 1
    assert "textual-serve, which is not installed: python -m pip install 'fastmgr[cli]'" in said
    assert say("top", manager.address, "--once")[0] == 0


def test_what_is_printed_needs_no_library() -> None:
    assert not set(call_in_subprocess(libraries)) & {"textual", "rich", "aiohttp"}


def libraries() -> list[str]:
    """What is loaded by a report."""
    from fastmgr.__main__ import main

    with ProbeManager(authkey=KEY) as manager:
        os.environ["FASTMGR_AUTHKEY"] = KEY.decode()
        sys.stdout = sys.stderr
        main(["top", manager.address, "--once"])
        sys.stdout = sys.__stdout__
    return list(sys.modules)


@contextlib.contextmanager
def terminal(address: str, wait_for: bytes = b"calls") -> Iterator[tuple[int, Any]]:
    """A screen's process and its terminal, in which something has been drawn."""
    pytest.importorskip("textual")
    pid, terminal = os.forkpty()
    if pid == 0:
        os.environ.update(FASTMGR_AUTHKEY=KEY.decode(), TERM="xterm-256color", NO_COLOR="1")
        os.execv(sys.executable, [sys.executable, "-m", "fastmgr", "top", address])
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        drawn = b""
        while b"fastmgr " not in drawn or wait_for not in drawn:
            drawn += screen.read(65536)
        assert b"\x1b[?1049h" in drawn
        yield pid, screen


def last_of(screen: Any) -> bytes:
    """What a terminal is sent until its process closes it."""
    said = b""
    with contextlib.suppress(OSError):  # its other end has been closed
        while more := screen.read(65536):
            said += more
    return said


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(in_thread(lambda: os.waitpid(pid, 0))[1])


def end(pid: int, screen: Any, how: bytes | int) -> None:
    """End a screen by a key or a signal, and expect the terminal as it was before."""
    if isinstance(how, int):
        os.kill(pid, how)
    else:
        screen.write(how)
    said = last_of(screen)
    assert exit_status(pid) == 0
    assert b"\x1b[?1049l" in said and b"Traceback" not in said


@pytest.mark.parametrize("how", [b"\x03", b"q", signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_end_of_a_screen_in_a_terminal(manager: Any, how: bytes | int) -> None:
    with terminal(manager.address) as (pid, screen):
        end(pid, screen, how)


def test_terminal_that_goes_away(manager: Any) -> None:
    with terminal(manager.address) as (pid, screen):
        screen.close()
        exit_status(pid)


def test_end_of_a_screen_whose_server_says_nothing(manager: Any) -> None:
    with terminal(manager.address) as (pid, screen), stopped(manager._process.pid):
        end(pid, screen, b"q")


def test_screen_of_a_server_that_is_not_there(tmp_path: Any) -> None:
    """It is no screen that waits for ever, but a line."""
    pytest.importorskip("textual")
    pid, terminal = os.forkpty()
    if pid == 0:
        words = ["-m", "fastmgr", "top", str(tmp_path / "socket")]
        os.execv(sys.executable, [sys.executable, *words])
    said = b""
    with os.fdopen(terminal, "rb", buffering=0) as screen, contextlib.suppress(OSError):
        while more := screen.read(65536):
            said += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert b"nobody serves there" in said and b"\x1b[?1049h" not in said
