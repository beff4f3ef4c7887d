"""Processes: what they do, what they hold, and functions of tests in fresh interpreters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waiting import DEADLINE, in_thread, poll

TESTS = Path(__file__).parents[1]
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def state_of(stat: Path) -> str:
    """The letter for what a process or thread does, from its file `stat` in ``/proc``."""
    return stat.read_text().rpartition(")")[2].split()[0]


def process_gone(pid: int) -> bool:
    """No such process, or nothing left of it but an entry that its parent has yet to collect."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # Of a killed process the other threads may end later than the first.
            return state_of(stat) in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1
        except (FileNotFoundError, ProcessLookupError):
            return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not state.stdout.strip() or state.stdout.strip().startswith("Z")


def asleep(pid: int) -> bool:
    """Whether the process waits for something: seen sleeping several times in a row."""
    for _ in range(6):
        if Path("/proc/self/stat").exists():
            state = state_of(Path(f"/proc/{pid}/stat"))
        else:
            shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True)
            state = shown.stdout.decode().strip()[:1]
        if state not in "SI":
            return False
        time.sleep(0.02)
    return True


def at_rest(pid: int, moment: float = 0.03) -> bool:
    """Whether a process does nothing for a moment: no thread of it runs, or waits to be let run.

    One that spins is never seen asleep, however little of a busy processor it gets, and whoever
    wakes has used some of it, if only microseconds: that is why the moment can be short.
    """
    if not Path("/proc/self/stat").exists():
        return asleep(pid)
    clock = ~pid << 3 | 2  # what clock_getcpuclockid() says
    used = time.clock_gettime(clock)
    for pause in (moment, 0.0):
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                if state_of(stat) not in "SI":
                    return False
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                return False
        time.sleep(pause)
    return time.clock_gettime(clock) == used


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(shown.stdout) * 1024


def grown(pid: int, before: int) -> int:
    """By how many bytes a process has more memory than `before`.

    None are seen with AddressSanitizer, whose allocator keeps what was freed for a while.
    """
    return 0 if SANITIZED else rss_bytes(pid) - before


def mapped(pid: int | str = "self") -> list[str]:
    """The pieces of an arena that a process has mapped, of ``/proc/PID/maps``."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "memfd:fastmgr" in line and end - start > 4096:  # a page is a connection's mailbox
            found.append(line)
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process stand still in the block."""

    def still() -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(state_of(task) in "TZ" for task in tasks)

    os.kill(pid, signal.SIGSTOP)
    try:
        poll(still, "it stands still")
        yield
    finally:
        kill(pid, signal.SIGCONT)


class Script:
    """A function of a test module that runs in a fresh interpreter.

    It is led by JSON lines on its standard output and by its standard input, leads a process
    group of its own, and the whole group ends with the `with` block.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, flags: tuple[str, ...] = ()):
        module = sys.modules[function.__module__]
        folder = str(Path(str(module.__file__)).parent)
        code = (
            "import json, sys\n"
            f"sys.path[:0] = {[folder, str(TESTS)]!r}\n"
            f"import {module.__name__} as module\n"
            f"result = module.{function.__name__}(*json.loads({json.dumps(args)!r}))\n"
            "print(json.dumps(result), flush=True)\n"
        )
        self.name = function.__name__
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def line(self, timeout: float = DEADLINE) -> Any:
        """The next JSON line it prints; its standard error is in the output of the test."""
        assert self.process.stdout is not None
        text: str = in_thread(self.process.stdout.readline, timeout=timeout)
        assert text, f"{self.name} ended without a word, status {self.process.wait(DEADLINE)}"
        return json.loads(text)

    def tell(self, line: str = "") -> None:
        """Give it a line of input."""
        print(line, file=self.process.stdin, flush=True)

    def finish(self, timeout: float = DEADLINE) -> None:
        """Tell it to end, by the end of its input, and expect that it does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout) == 0

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def call_in_subprocess(
    function: Callable[..., Any],
    *args: Any,
    flags: tuple[str, ...] = (),
    timeout: float = DEADLINE,
) -> Any:
    """What `function(*args)` returns (as JSON) in a fresh interpreter."""
    with Script(function, *args, flags=flags) as script:
        result = script.line(timeout)
        assert script.process.wait(DEADLINE) == 0
        return result


def say(value: Any) -> None:
    """Print a JSON line: for functions that run in a `Script`."""
    print(json.dumps(value), flush=True)


def await_end_of_group(group: int) -> None:
    """Wait for an empty process group: helpers that end with their pipe may need a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("processes are left")


def in_child(function: Callable[[], object]) -> tuple[int, str]:
    """The status of a raw fork that runs `function`, and what it returned."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(write, repr(function()).encode())
            status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    try:
        with open(read) as pipe:
            text = in_thread(pipe.read)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    return status, text


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def members(field: int, number: int) -> list[int]:
    """The living processes of a parent (field 1 of their state), a group (2) or a session (3)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[field]) == number:
                found.append(int(stat.parent.name))
    return found


def children(number: int) -> list[int]:
    return members(1, number)


def group(number: int) -> list[int]:
    return members(2, number)


def session(number: int) -> list[int]:
    return members(3, number)
