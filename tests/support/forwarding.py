"""Connections that are relayed to a server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from support import DEADLINE, readable

__all__ = ["forwarder"]


@contextlib.contextmanager
def forwarder(path: str) -> Iterator[tuple[str, int]]:
    """A TCP address whose connections are relayed to a Unix socket, for which a server has none."""
    listener = socket.create_server(("127.0.0.1", 0))
    woken, waker = socket.socketpair()
    peers: dict[socket.socket, socket.socket] = {}

    def close(one: socket.socket) -> None:
        for sock in (one, peers.pop(one)):
            peers.pop(sock, None)
            sock.close()

    def run() -> None:
        while True:
            ready = readable([listener, woken, *peers])
            if woken in ready:
                return
            for sock in ready:
                if sock is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(path)
                    peers[client], peers[server] = server, client
                elif sock in peers:
                    try:
                        data = sock.recv(65536)
                        if data:
                            peers[sock].sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        close(sock)

    thread = threading.Thread(target=run, name="forwarder")
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        waker.close()
        thread.join(DEADLINE)
        for sock in [listener, woken, *peers]:
            sock.close()
