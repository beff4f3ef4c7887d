"""Servers that are run by ``fastmgr serve``, and who has started them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.waiting import DEADLINE

#: Starts what follows as systemd does, with an open socket: number of the socket, then the command.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=os.environ.get("PASSED", "1"))
os.execv(sys.argv[2], sys.argv[2:])
"""
COMMAND = [sys.executable, "-m", "fastmgr"]
#: What the environment of a test run must not say to a server.
UNSET = ("CREDENTIALS_DIRECTORY", "FASTMGR_AUTHKEY", "FASTMGR_AUTHKEY_FILE", "RUNTIME_DIRECTORY")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in UNSET} | {
        **(more or {})
    }


class Service:
    """A server's process, what it reports, and what it logs, as JSON."""

    def __init__(self, command: Sequence[str], notify: socket.socket, **how: Any) -> None:
        self.notify = notify
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put("")

    def reported(self) -> list[str]:
        """The next report, line by line."""
        try:
            return self.notify.recv(4096).decode().split("\n")
        except TimeoutError:
            raise AssertionError(f"nothing is reported; {self.said()}") from None

    def said(self) -> str:
        """What it has logged and nobody has looked at."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.lines.get_nowait())
        return "".join(found)

    def logged(self, containing: str) -> dict[str, Any]:
        """The next fact that it logs whose message contains that."""
        while True:
            line = self.lines.get(timeout=DEADLINE)
            assert line, f"it has ended, and has not logged {containing!r}"
            fact: dict[str, Any] = json.loads(line)
            if containing in fact["message"]:
                return fact

    def ends(self) -> int:
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def service(
    *words: str,
    ready: bool = True,
    passes: socket.socket | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    command: Sequence[str] = (*COMMAND, "serve", "--log-format", "json"),
) -> Iterator[Service]:
    """A server that is started by this process, and is ready where it is to be so."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.bind(f"{folder}/notify")
        notify.settimeout(DEADLINE)
        command = [*command, *words]
        fds: tuple[int, ...] = ()
        if passes is not None:
            fds = (passes.fileno(),)
            command = [sys.executable, "-c", ACTIVATE, str(fds[0]), *command]
        variables = environment({"NOTIFY_SOCKET": f"{folder}/notify", **(env or {})})
        started = Service(command, notify, env=variables, cwd=cwd, pass_fds=fds)
        try:
            if ready:
                assert started.reported()[0] == "READY=1"
            yield started
        finally:
            started.process.kill()
            started.ends()
            started.reader.join(DEADLINE)
            assert started.process.stderr is not None
            started.process.stderr.close()


def refused(*words: str, env: Mapping[str, str] | None = None, status: int = 2) -> str:
    """What ``fastmgr serve`` says that does not serve."""
    done = subprocess.run(
        [*COMMAND, "serve", *words],
        capture_output=True, text=True, timeout=DEADLINE, env=environment(env),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    return done.stderr
