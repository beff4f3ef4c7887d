"""Peers: processes of any Python 3.10+ with the stock library, kept for the whole session."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import fastmgr.managers
import interop_types
import pytest
from support import DEADLINE, in_thread

assert interop_types.managers is fastmgr.managers  # not the stdlib's at both ends

HERE = Path(__file__).parent

# Text, for it travels as JSON. Proxies that cross from server to server need it to be the
# key of the processes, too: the stdlib's servers have no other for a server of someone else.
KEY = "the interop suite's key"
ADDRESSES = {"unix": None, "tcp": ("127.0.0.1", 0)}


class Peer:
    """A stock Python, driven by `peer.py`'s JSON lines."""

    def __init__(self, version: str, executable: str):
        self.version = tuple(int(part) for part in version.split("."))
        self._servers: dict[tuple[str, str], Any] = {}
        self._errors = tempfile.TemporaryFile("w+")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [executable, "-B", "-s", str(HERE / "peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
        try:
            hello = self.call("hello", key=KEY)
            assert tuple(hello["version"]) == self.version
            assert "fastmgr" not in hello["file"]
        except BaseException:
            self.close()
            raise

    def call(self, command: str, timeout: float = DEADLINE, **arguments: Any) -> Any:
        """Have the peer do something; its result. Its traceback is the test's failure."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = in_thread(self._process.stdout.readline, timeout=timeout)
            answer = json.loads(line) if line else {"error": "the peer died"}
        except (OSError, AssertionError) as error:
            answer = {"error": repr(error)}
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

    def close(self) -> None:
        with contextlib.suppress(Exception, pytest.fail.Exception):
            for kind in self._servers:
                self.call("stop", name="/".join(kind), timeout=5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


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

    def close(self) -> None:
        for manager in self._managers.values():
            manager.shutdown()


def connect(address: Any, serializer: str = "pickle", key: str = KEY) -> Any:
    """A fastmgr client of the server at `address`."""
    manager = interop_types.InteropManager(address, key.encode(), serializer)
    manager.connect()
    return manager
