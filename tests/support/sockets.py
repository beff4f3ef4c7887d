"""The sockets of this process."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterable, Iterator
from stat import S_ISSOCK
from typing import Any

Address = Any  # str for a Unix socket, (host, port) for TCP


def readable(sources: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Those from which something can be read; whatever their descriptors, unlike `select`."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]


def sockets_to(address: Address) -> Iterator[socket.socket]:
    """This process's connected sockets of which `address` is an end (as duplicates)."""
    wanted = address if isinstance(address, str) else tuple(address)
    for name in os.listdir("/dev/fd"):
        try:
            if not S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # the descriptor of the listing itself
            continue
        with sock:
            try:
                ends = (sock.getsockname(), sock.getpeername())
            except OSError:  # not connected
                continue
            if wanted in ends:
                yield sock


def tcp_options(address: Address) -> list[tuple[bool, bool]]:
    """(no delay, keep alive) of every connection of this process to or at `address`."""
    return [
        (
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0,
        )
        for sock in sockets_to(address)
    ]
