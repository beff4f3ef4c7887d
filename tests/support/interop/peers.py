"""Peers: processes of any Python 3.10+ with the stock library, kept for the whole session."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import interop_types
import pytest
from support import DEADLINE, in_thread, settle

import fastmgr.managers

assert interop_types.managers is fastmgr.managers  # not the stdlib's at both ends

HERE = Path(__file__).parent

# Text, for it travels as JSON. Proxies that cross from server to server need it to be the
# key of the processes, too: the stdlib's servers have no other for a server of someone else.
KEY = "the interop suite's key"
ADDRESSES = {"unix": None, "tcp": ("127.0.0.1", 0)}


class Peer:
    """A stock Python, driven by `peer.py`'s JSON lines; a new process after one that got stuck."""

    def __init__(self, version: str, executable: str):
        self.version = tuple(int(part) for part in version.split("."))
        self._executable = executable
        self._servers: dict[tuple[str, str], Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close())
        self._start()

    def _start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [self._executable, "-B", "-s", str(HERE / "peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
        hello = self.call("hello", key=KEY)
        assert tuple(hello["version"]) == self.version
        assert "fastmgr" not in hello["file"]

    def call(self, command: str, timeout: float = DEADLINE, **arguments: Any) -> Any:
        """Have the peer do something; its result. Its traceback is the test's failure."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            process.stdin.flush()
            answer = json.loads(in_thread(process.stdout.readline, timeout=timeout))
        except (OSError, ValueError, AssertionError) as error:
            self._end()
            answer = {"error": f"the peer died or is stuck: {error!r}"}
        if "error" in answer:
            self._errors.seek(0)
            said = self._errors.read()[-4000:]
            version = ".".join(map(str, self.version))
            pytest.fail(
                f"{command} {arguments} in the peer with Python {version}:\n{answer['error']}"
                f"\nIts standard error ends with:\n{said}",
                pytrace=False,
            )
        return answer["result"]

    def server(self, family: str, serializer: str = "pickle") -> Any:
        """The address of this peer's stock server of a kind, started at first use."""
        kind = (family, serializer)
        if kind not in self._servers:
            address = self.call(
                "serve",
                name="/".join(kind),
                address=ADDRESSES[family],
                key=KEY,
                serializer=serializer,
            )
            self._servers[kind] = tuple(address) if isinstance(address, list) else address
        return self._servers[kind]

    @contextlib.contextmanager
    def clean_server(self, family: str, serializer: str = "pickle") -> Iterator[Any]:
        """A manager connected to that server, which is to be left as empty as it was found.

        If it is not, a new server is there for the next test.
        """
        manager = connect(self.server(family, serializer), serializer)
        try:
            yield manager
            settle(manager, 0)
        except BaseException:
            if self._servers.pop((family, serializer), None) is not None:
                self.call("stop", name=f"{family}/{serializer}")
            raise

    def _end(self) -> None:
        process, self._process = self._process, None
        self._servers.clear()
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def close(self) -> None:
        for family, serializer in list(self._servers):
            with contextlib.suppress(pytest.fail.Exception):
                self.call("stop", name=f"{family}/{serializer}", timeout=10)
        self._end()
        self._errors.close()


class FastServers:
    """fastmgr servers, one of each kind, started at first use."""

    def __init__(self) -> None:
        self._managers: dict[tuple[str, str], Any] = {}

    def get(self, family: str, serializer: str = "pickle") -> Any:
        kind = (family, serializer)
        if kind not in self._managers:
            manager = interop_types.InteropManager(ADDRESSES[family], KEY.encode(), serializer)
            manager.start(initializer=interop_types.add_json)
            self._managers[kind] = manager
        return self._managers[kind]

    @contextlib.contextmanager
    def clean(self, family: str, serializer: str = "pickle") -> Iterator[Any]:
        """A server that is to be left as empty as it was found, or else is replaced."""
        manager = self.get(family, serializer)
        try:
            yield manager
            settle(manager, 0)
        except BaseException:
            self._managers.pop((family, serializer)).shutdown()
            raise

    def close(self) -> None:
        for manager in self._managers.values():
            manager.shutdown()


def connect(address: Any, serializer: str = "pickle", key: str = KEY) -> Any:
    """A fastmgr client of the server at `address`."""
    manager = interop_types.InteropManager(address, key.encode(), serializer)
    manager.connect()
    return manager
