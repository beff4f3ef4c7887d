"""Connections that are relayed to a server, and cut or stopped on the way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from support import DEADLINE, readable

__all__ = ["Relay", "forwarder"]


def _end(sock: socket.socket) -> None:
    """Close it for its peer as well, also where a child of this process has a copy."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class Relay:
    """A TCP address whose connections are relayed to a server's address.

    Parameters
    ----------
    target : path, or (host, port)

    Attributes
    ----------
    address : (str, int)
    passed : dict of bool to int
        Bytes that have been relayed: to the server (True), and to the clients (False).
    left : dict of bool to int or None
        Bytes that will be relayed in either direction, all connections together; None for any.
    cuts : bool
        Whether the connection is closed behind the last of these, or stands still.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.cuts = True
        self.passed = {True: 0, False: 0}
        self.left: dict[bool, int | None] = {True: None, False: None}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._woken, self._waker = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._stopped: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waker.send(b"end")
        self._thread.join(DEADLINE)
        for sock in [self._listener, self._woken, self._waker, *self._peers]:
            _end(sock)

    def allow(self, *, up: int | None = None, down: int | None = None) -> None:
        """From now on relay so many bytes more to the server, and to the clients."""
        self.left = {True: up, False: down}

    def _close(self, one: socket.socket) -> None:
        for sock in (one, self._peers.pop(one)):
            self._peers.pop(sock, None)
            self._clients.discard(sock)
            self._stopped.discard(sock)
            _end(sock)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.socket(socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET)
        try:
            server.connect(self.target)
        except OSError:  # the server is away
            server.close()
            _end(client)
            return
        self._peers[client], self._peers[server] = server, client
        self._clients.add(client)

    def _run(self) -> None:
        while True:
            moving = [sock for sock in self._peers if sock not in self._stopped]
            ready = readable([self._listener, self._woken, *moving])
            if self._woken in ready:
                return
            for sock in ready:
                if sock is self._listener:
                    self._accept()
                elif sock in self._peers and not self._relay(sock):
                    self._close(sock)

    def _relay(self, sock: socket.socket) -> bool:
        """Relay what has come; whether the connection goes on."""
        up = sock in self._clients
        try:
            data = sock.recv(65536)
            left = self.left[up]
            if left is not None:
                if data and left < len(data) and not self.cuts:
                    self._stopped.add(sock)
                over = left < len(data)
                data = data[:left]
                self.left[up] = left - len(data)
            else:
                over = False
            if data:
                self._peers[sock].sendall(data)
                self.passed[up] += len(data)
            return bool(data) and not over if self.cuts else bool(data) or over
        except OSError:
            return False


@contextlib.contextmanager
def forwarder(path: str) -> Iterator[tuple[str, int]]:
    """A TCP address whose connections are relayed to a Unix socket, for which a server has none."""
    with Relay(path) as relay:
        yield relay.address
