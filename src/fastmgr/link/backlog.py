"""How many connections wait at a listening socket: what the kernel tells, where it tells."""

from __future__ import annotations

import os
import socket
import struct
import sys

__all__ = ["backlog_of"]

#: Seconds that the kernel has for its answer, which it gives at once.
TIMEOUT = 1.0

# Of linux/netlink.h, sock_diag.h and unix_diag.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
UDIAG_SHOW_RQLEN = 16
UNIX_DIAG_RQLEN = 4
#: A message's header; what is asked of one socket; and what stands before an answer's attributes.
HEADER = struct.Struct("=IHHII")
QUESTION = struct.Struct("=BBxxIIIII")
ANSWER = struct.Struct("=BBBxIII")
ATTRIBUTE = struct.Struct("=HHI")
NO_COOKIE = 0xFFFFFFFF


def backlog_of(listener: socket.socket) -> int | None:
    """Return how many connections wait to be accepted; None where the system does not tell.

    Raises
    ------
    OSError
        The socket is closed, or the kernel is not to be asked, as in a sandbox.
    """
    if sys.platform != "linux":
        return None
    if listener.family == socket.AF_UNIX:
        return _of_unix(os.fstat(listener.fileno()).st_ino)
    about = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int.from_bytes(about[24:28], sys.byteorder)  # tcpi_unacked


def _of_unix(inode: int) -> int | None:
    """Ask the kernel's socket diagnosis, as `ss` does."""
    question = QUESTION.pack(
        socket.AF_UNIX, 0, 0xFFFFFFFF, inode, UDIAG_SHOW_RQLEN, NO_COOKIE, NO_COOKIE
    )
    size = HEADER.size + len(question)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(TIMEOUT)
        kernel.sendall(HEADER.pack(size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + question)
        answer = kernel.recv(4096)
    if HEADER.unpack_from(answer)[1] != SOCK_DIAG_BY_FAMILY:  # an error: it knows no such socket
        return None
    at = HEADER.size + ANSWER.size
    while at + ATTRIBUTE.size <= len(answer):
        length, kind, waiting = ATTRIBUTE.unpack_from(answer, at)
        if kind == UNIX_DIAG_RQLEN:
            return int(waiting)
        at += max(length + 3 & ~3, 4)
    return None
