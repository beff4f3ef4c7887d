"""A server without the key, which has one client answer what another has asked."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import DEADLINE, RawPeer

CHALLENGE = b"#CHALLENGE#"


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


class Fake(RawPeer):
    """A connection of a client to a server that has no key."""

    def __init__(self, listener: socket.socket) -> None:
        self.sock, _ = listener.accept()
        self.sock.settimeout(DEADLINE)


def pose(listener: socket.socket, bomb: Path) -> None:
    """Be welcomed by the first of two clients by what the second says, and reply to it."""
    with Fake(listener) as victim, Fake(listener) as helper:
        victim.send_frame(CHALLENGE + b"{sha256}" + os.urandom(40))
        victim.recv_frame()
        asked = victim.recv_frame()
        helper.send_frame(asked)
        answer = helper.recv_frame()
        victim.send_frame(b"#WELCOME#")
        victim.send_frame(answer)
        assert victim.recv_frame() == b"#WELCOME#"
        victim.recv_frame()
        victim.send_frame(pickle.dumps(("#RETURN", Bomb(bomb))))
        victim.frames_until_eof()


@contextlib.contextmanager
def posing(address: str, bomb: Path) -> Iterator[None]:
    """Such a server in the block, for as many pairs of clients as come."""

    def run() -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                pose(listener, bomb)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)
