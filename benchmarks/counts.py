"""What does not depend on the speed of the machine: bytes, system calls and threads."""

import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from cases import CASES, Operation
from legs import Leg

BYTE_OPERATIONS = 10
SYSCALL_ROUNDS = 5
SYSCALL_WARM_UP = 5
SYSCALL_OPERATIONS = 20
"""Fewer calls in all than those after which a connection has a mailbox: under strace it is a matter
of luck what goes by it."""
BYTE_CASES = tuple(name for name in CASES if name != "nested")
"""A nested proxy names the relay's address, so the server would call itself through the relay."""
SYSCALL_CASES = tuple(name for name in CASES if name != "bytes_1mb")
"""How often a large value is read depends on how fast the other side writes."""
IDLE_CONNECTIONS = 300
MARK = "/fastmgr-benchmark"
"""The root of paths that do not exist: asking for one leaves a mark in a trace."""


class Relay:
    """Passes TCP connections on to a server, and counts the bytes of both directions."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.bytes = 0
        self.mutex = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self.threads:  # which adds no more of them once it has been joined
            thread.join()
        self.listener.close()

    def accept(self) -> None:
        """Take connections until the listener is shut down."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.serve, args=(client,)))
            self.threads[-1].start()

    def serve(self, client: socket.socket) -> None:
        """Pass both directions of one connection on until both have ended."""
        with client, socket.create_connection(self.target) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            replies = threading.Thread(target=self.forward, args=(server, client))
            replies.start()
            self.forward(client, server)
            replies.join()

    def forward(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass one direction on. Bytes count before they leave: a reply read is a reply counted."""
        try:
            while data := source.recv(1 << 16):
                with self.mutex:
                    self.bytes += len(data)
                sink.sendall(data)
        except OSError:
            pass  # one end is gone, and the other direction sees it too
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def bytes_per_operation(leg: Leg, names: Iterable[str]) -> dict[str, float]:
    """Count what travels between client and server, requests and replies together."""
    manager = leg.start(("127.0.0.1", 0))
    found = {}
    with manager, Relay(manager.address) as relay:
        remote = leg.connect(relay.address)
        for name in names:
            operation = CASES[name].prepare(remote)
            operation.check(leg)
            before = relay.bytes
            for _ in range(BYTE_OPERATIONS):
                operation.run()
            found[name] = (relay.bytes - before) / BYTE_OPERATIONS
            del operation
        del remote
    return found


def can_trace() -> bool:
    """Whether strace is installed and allowed to follow children."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-f", "-o", os.devnull, "true"], check=False).returncode == 0


def syscalls_per_operation(leg: Leg, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Count the system calls of client and server together, by name: the median of some rounds.

    Who comes too late on a busy machine looks again, which is another call now and then; to let
    others run between two looks is not counted.
    """
    wanted = list(names)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "trace")
        program = [sys.executable, str(Path(__file__)), leg.name, *wanted]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        subprocess.run(
            ["strace", "-f", "-qq", "-o", str(log), *program],
            check=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        found: dict[str, list[Counter[str]]] = {name: [] for name in wanted}
        current: Counter[str] = Counter()
        for line in log.read_text(errors="replace").splitlines():
            if mark := re.search(rf'"{MARK}/(begin|end)/(\w*)"', line):
                current = Counter()
                if mark[1] == "begin":
                    found[mark[2]].append(current)
            elif call := re.match(r"\d+ +(?!sched_yield)(\w+)\(", line):  # not "<... resumed>"
                current[call[1]] += 1
    return {
        name: {
            call: count / SYSCALL_OPERATIONS
            for call, count in sorted(rounds, key=Counter.total)[len(rounds) // 2].most_common()
        }
        for name, rounds in found.items()
    }


def run_marked(leg: Leg, names: Iterable[str]) -> None:
    """Run the operations between marks: what is traced."""
    with leg.start() as manager:
        for name in names:
            operation = CASES[name].prepare(manager)
            operation.check(leg)
            for _ in range(SYSCALL_ROUNDS):
                thread = threading.Thread(target=run_round, args=(name, operation))
                thread.start()
                thread.join()


def run_round(name: str, operation: Operation) -> None:
    """Run an operation between marks, on this thread's own connection."""
    for _ in range(SYSCALL_WARM_UP):
        operation.run()
    os.access(f"{MARK}/begin/{name}", os.F_OK)
    for _ in range(SYSCALL_OPERATIONS):
        operation.run()
    os.access(f"{MARK}/end/{name}", os.F_OK)


def can_count_threads() -> bool:
    """Whether the system tells the number of another process's threads."""
    return Path("/proc/self/status").exists()


def server_threads(leg: Leg, connections: int = IDLE_CONNECTIONS) -> int:
    """Count the threads of a server with that many idle connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * connections
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    connected = threading.Semaphore(0)
    leave = threading.Event()
    with leg.start() as manager:
        shared = manager.dict({"key": 1})
        leg.assert_own(shared)
        results: list[Any] = []

        def client() -> None:
            try:
                results.append(shared["key"])  # a thread's first call makes its connection
            finally:
                connected.release()
                leave.wait()

        threads = [threading.Thread(target=client) for _ in range(connections)]
        try:
            for thread in threads:
                thread.start()
                connected.acquire()
            assert results == [1] * connections
            status = Path(f"/proc/{manager._process.pid}/status").read_text()
        finally:
            leave.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
    return int(status.partition("Threads:")[2].split()[0])


if __name__ == "__main__":
    from legs import LEGS

    run_marked(LEGS[sys.argv[1]], sys.argv[2:])
