"""What the interop, faults and regressions suites share: waiting, processes, the wire by hand.

Anything a test has to wait for is polled with a deadline; nothing here sleeps and hopes.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import hmac
import json
import multiprocessing
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISSOCK
from typing import Any

import fastmgr
from fastmgr.link.handshake import prove
from fastmgr.link.introduction import Introducer

DEADLINE = 30.0
TESTS = Path(__file__).parents[1]
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
KEY = b"a key of these tests"

Address = Any  # str for a Unix socket, (host, port) for TCP


def poll(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Wait until `condition()` is true; fail the test, saying `what`, when it does not get so."""
    end = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def settle(manager: Any, expected: int) -> None:
    """Wait until the server of `manager` has exactly `expected` shared objects."""
    seen = -1

    def reached() -> bool:
        nonlocal seen
        gc.collect()
        seen = manager._number_of_objects()
        return seen == expected

    try:
        poll(reached, f"{expected} shared objects")
    except AssertionError:
        raise AssertionError(
            f"{seen} shared objects, not {expected}:\n{manager._debug_info()}"
        ) from None


def in_thread(function: Callable[..., Any], *args: Any, timeout: float = DEADLINE) -> Any:
    """The result of `function(*args)` in a thread of its own (so: on a connection of its own)."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, function(*args)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    assert outcome, f"{function} did not return within {timeout:g} s"
    good, value = outcome[0]
    if not good:
        raise value
    return value


def together(count: int, work: Callable[[int], Any], timeout: float = DEADLINE) -> list[Any]:
    """What `work(i)` returns in threads of their own, which begin at the same time."""
    ready = threading.Barrier(count)
    results: list[Any] = [None] * count
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            ready.wait(timeout)
            results[number] = work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread is stuck"
    if failures:
        raise failures[0]
    return results


def count_behind_an_acquire(lock: Any, counts: Any, way: str) -> None:
    """Send an `acquire` and, without waiting for it, what is to be done with the lock.

    Parameters
    ----------
    way : str
        By a ``"pipeline"``, or by calls that are one-way.
    """
    if way == "pipeline":
        with fastmgr.Pipeline(lock._session_of()) as pipe:
            pipe(lock).acquire()
            pipe(counts).incr("n")
            pipe(lock).release()
    else:
        fastmgr.oneway(lock).acquire()
        fastmgr.oneway(counts).incr("n")
        lock.release()


# Processes


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


def mapped(pid: int | str = "self") -> list[str]:
    """The pieces of an arena that a process has mapped, of ``/proc/PID/maps``."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "memfd:fastmgr" in line and end - start > 4096:  # a page is a connection's mailbox
            found.append(line)
    return found


def hide_server(server: Any) -> None:
    """Wait until `server` serves in a thread, and let this process not pass for a server's."""
    here: Any = multiprocessing.current_process()
    poll(lambda: getattr(here, "_manager_server", None) is server, "the server serves")
    here._manager_server = None  # proxies would take the server for theirs


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


# Interpreters


def interpreters() -> dict[str, str]:
    """Every working CPython 3.10+ to be found, by its "3.X", with the one at hand.

    Besides PATH, the folders next to the one at hand are searched: version managers and CI
    images install interpreters side by side. What is found has to run: a name on PATH may be a
    launcher of something that is not installed.
    """
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # A virtual environment would bring what is installed in it.
    found = {here: getattr(sys, "_base_executable", sys.executable)}
    prefix = Path(sys.base_prefix)
    for minor in range(10, 20):
        version = f"3.{minor}"
        name = f"python{version}"
        candidates = [shutil.which(name)]
        for pattern in (f"{version}.*/bin/{name}", f"{version}.*/*/bin/{name}", f"*/bin/{name}"):
            for root in (prefix.parent, prefix.parent.parent):
                candidates += [str(path) for path in sorted(root.glob(pattern), reverse=True)]
        for candidate in candidates:
            if version not in found and candidate and _runs(candidate, version):
                found[version] = candidate
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def _runs(executable: str, version: str) -> bool:
    code = "import sys, _multiprocessing; print('%s.%s' % sys.version_info[:2])"
    try:
        done = subprocess.run([executable, "-I", "-c", code], capture_output=True, timeout=DEADLINE)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.decode().strip() == version


# The wire by hand


class RawPeer:
    """A peer that speaks the stdlib's wire frame by frame, and so can misspeak it."""

    def __init__(self, address: Address, patience: float = DEADLINE):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(patience)
        self.sock.connect(address if isinstance(address, str) else tuple(address))

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send_frame(self, payload: bytes) -> None:
        self.sock.sendall(struct.pack("!i", len(payload)) + payload)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.sock.recv(size - len(data))
            except ConnectionResetError:  # closed while something was unread: the end as well
                more = b""
            if not more:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += more
        return data

    def recv_frame(self) -> bytes:
        (size,) = struct.unpack("!i", self._read(4))
        return self._read(size)

    def frames_until_eof(self) -> list[bytes]:
        """All that the server says until it hangs up."""
        said = []
        while True:
            try:
                said.append(self.recv_frame())
            except EOFError:
                return said

    def answer(self, key: bytes = KEY) -> bytes:
        """Answer the server's challenge; its verdict."""
        challenge = self.recv_frame()
        assert challenge.startswith(b"#CHALLENGE#")
        self.asked = challenge[len(b"#CHALLENGE#") :]
        self.send_frame(mac(key, self.asked))
        return self.recv_frame()

    def challenge(self, key: bytes = KEY, prefix: bytes = b"") -> None:
        """Make the server prove the key too."""
        self.asked_back = message = prefix + os.urandom(40 if prefix else 20)
        self.send_frame(b"#CHALLENGE#" + message)
        answer = self.recv_frame()
        if len(answer) == 16:
            good = hmac.new(key, message, hashlib.md5).digest()
        else:
            good = mac(key, message)
        assert answer == good
        self.send_frame(b"#WELCOME#")

    def login(self, key: bytes = KEY) -> RawPeer:
        assert self.answer(key) == b"#WELCOME#"
        self.challenge(key)
        return self

    def introduce(self, session: bytes, name: str = "by hand") -> Any:
        """Become a client of the fast dialect; what the server says of itself."""

        def proof(role: str, said: bytes) -> bytes:
            return prove(KEY, role, self.asked, self.asked_back, said)

        introducer = Introducer(session, name)
        self.send_frame(introducer.introduce(proof))
        return introducer.read_answer(self.recv_frame())

    def call(self, ident: str | None, method: str, *args: Any, **kwds: Any) -> tuple[str, Any]:
        self.send_frame(pickle.dumps((ident, method, args, kwds)))
        reply: tuple[str, Any] = pickle.loads(self.recv_frame())
        return reply


def mac(key: bytes, message: bytes) -> bytes:
    """The answer to a challenge, in the dialect in which it was put."""
    if message.startswith(b"{sha256}"):
        return b"{sha256}" + hmac.new(key, message, hashlib.sha256).digest()
    return hmac.new(key, message, hashlib.md5).digest()


def readable(sources: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Those from which something can be read; whatever their descriptors, unlike `select`."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]


def sockets_to(address: Address) -> Iterator[socket.socket]:
    """This process's connected sockets of which `address` is an end (as duplicates)."""
    wanted = address if isinstance(address, str) else tuple(address)
    for name in os.listdir("/dev/fd"):
        try:
            if not S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # the descriptor of the listing itself
            continue
        with sock:
            try:
                ends = (sock.getsockname(), sock.getpeername())
            except OSError:  # not connected
                continue
            if wanted in ends:
                yield sock


# What the server of a test offers


class Tracked:
    """Objects that count themselves."""

    alive = 0

    def __init__(self) -> None:
        Tracked.alive += 1

    def __del__(self) -> None:
        Tracked.alive -= 1

    def ping(self) -> str:
        return "pong"


class Probe:
    """Looks at the server process from within."""

    def tracked(self) -> int:
        gc.collect()
        return Tracked.alive

    def cpu(self) -> float:
        return time.process_time()

    def descriptors(self) -> int:
        return len(os.listdir("/dev/fd"))

    def threads(self) -> int:
        tasks = Path("/proc/self/task")
        return len(os.listdir(tasks)) if tasks.exists() else threading.active_count()

    def tcp_options(self, address: Address) -> list[tuple[bool, bool]]:
        return tcp_options(address)

    def sessions(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return server.table.session_count  # type: ignore[no-any-return]


class Sleeper:
    """A user's class with a slow method."""

    def echo(self, value: object) -> object:
        return value

    def slow(self, seconds: float, value: object) -> object:
        time.sleep(seconds)
        return value


def tcp_options(address: Address) -> list[tuple[bool, bool]]:
    """(no delay, keep alive) of every connection of this process to or at `address`."""
    return [
        (
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0,
        )
        for sock in sockets_to(address)
    ]


class ProbeManager(fastmgr.SyncManager):
    """SyncManager's types, and those above."""


ProbeManager.register("Tracked", Tracked)
ProbeManager.register("Probe", Probe)
ProbeManager.register("Sleeper", Sleeper)


def connected(address: Address, key: bytes = KEY) -> ProbeManager:
    """A client of the server at `address`."""
    place = address if isinstance(address, str) else tuple(address)
    manager = ProbeManager(address=place, authkey=key)
    manager.connect()
    return manager
