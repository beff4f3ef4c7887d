"""Sockets: listening, connecting, and the handshake from the client's side."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from multiprocessing import connection, util
from typing import Any

from fastmgr._frame import Stream
from fastmgr.dialects.handshake import HANDSHAKE_LIMIT, Responder

__all__ = ["Address", "Listener", "connect", "tune"]

Address = Any  # (host, port), a path, or an abstract name as bytes or "\0..."

#: Seconds without traffic until a TCP peer is asked whether it lives, seconds
#: between the questions, and questions until it is given up.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


def _family(address: Address) -> socket.AddressFamily:
    if isinstance(address, (str, bytes)):
        return socket.AF_UNIX
    if isinstance(address, tuple):
        return socket.AF_INET
    raise ValueError(
        f"address {address!r} of type {type(address).__name__}: "
        "a path or a (host, port) tuple is needed"
    )


def tune(sock: socket.socket) -> None:
    """Set what a request-and-reply connection wants: no Nagle, dead peers noticed."""
    if sock.family != socket.AF_INET:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Listener:
    """A listening socket; what `multiprocessing.connection.Listener` is, for raw use.

    Parameters
    ----------
    address : address or None
        None for a fresh path in a private temporary directory.
    backlog : int
        Connections the kernel may hold before they are accepted.

    Raises
    ------
    OSError
        The address cannot be bound; the message names it.
    """

    def __init__(self, address: Address = None, backlog: int = socket.SOMAXCONN) -> None:
        if address is None:
            address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        family = _family(address)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if family == socket.AF_INET:
                # As the stdlib does: a restarted server takes its port at once.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(backlog)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            if error.errno is None:  # "AF_UNIX path too long" carries no number
                raise OSError(errno.ENAMETOOLONG, f"{error}: {address!r}") from None
            raise OSError(error.errno, f"{error.strerror}: {address!r}") from None
        self.address: Address = self._socket.getsockname()
        self.last_accepted: Address = None
        self._unlink: Any = None
        if family == socket.AF_UNIX and not os.fsencode(address).startswith(b"\0"):
            self._unlink = util.Finalize(self, _unlink, args=(address,), exitpriority=0)

    def fileno(self) -> int:
        """The listening descriptor, -1 once closed."""
        return self._socket.fileno()

    def accept_socket(self) -> socket.socket:
        """Return the next connection as a tuned, blocking socket.

        Raises
        ------
        BlockingIOError
            None is waiting.
        OSError
            What accept(2) says, EMFILE among it.
        """
        accepted, self.last_accepted = self._socket.accept()
        accepted.setblocking(True)
        tune(accepted)
        return accepted

    def close(self) -> None:
        """Stop listening and remove the path."""
        self._socket.close()
        if self._unlink is not None:
            unlink, self._unlink = self._unlink, None
            unlink()

    def abandon(self) -> None:
        """Close a forked child's copy of the socket; the path is the parent's."""
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _unlink(path: str | bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def connect(
    address: Address,
    authkey: bytes | None,
    introduce: Callable[[Callable[[str, bytes], bytes]], bytes] | None = None,
    timeout: float | None = None,
) -> Stream:
    """Connect to a server, prove each other's key and send a first request.

    Parameters
    ----------
    address : address
    authkey : bytes or None
        None where the server asks for none.
    introduce : callable, optional
        Given the handshake's `prove`, it returns the first request, which is sent in one write
        with the handshake's last frame.
    timeout : float, optional
        Seconds that each step may take; later receives of the stream that are not
        patient may take as long.

    Raises
    ------
    AuthenticationError
        The key is not the server's.
    EOFError, OSError
        There is no server, or it closed the connection, or did not answer in time.
    """
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    patient = timeout is None
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.setblocking(True)
        tune(sock)
        stream = Stream(sock.detach())
    except BaseException:
        sock.close()
        raise
    if timeout is not None:
        stream.set_timeout(timeout)
    if authkey is None:
        return stream
    try:
        stream.set_limit(HANDSHAKE_LIMIT)
        responder = Responder(authkey)
        stream.send_bytes(*responder.answer(stream.recv_bytes(patient=patient)))
        responder.check_welcome(stream.recv_bytes(patient=patient))
        stream.acknowledge()
        welcome = responder.check_response(stream.recv_bytes(patient=patient))
        stream.send_bytes(welcome, *([] if introduce is None else [introduce(responder.prove)]))
        stream.set_limit(0)
    except BaseException:
        stream.close()
        raise
    return stream
