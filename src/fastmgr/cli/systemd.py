"""What systemd, or who stands in for it, and a service tell each other.

The service reports what it does to a socket (``sd_notify``), and may be given a socket that listens
already (socket activation).  Both are described in the manual pages sd_notify(3) and
sd_listen_fds(3); neither needs a library.
"""

from __future__ import annotations

import contextlib
import os
import socket

from fastmgr.cli.options import Refusal
from fastmgr.link.sockets import Listener

__all__ = ["passed_listener", "report", "wants_signs_of_life"]

#: The first descriptor that is passed.
FIRST = 3


def report(*lines: str) -> None:
    """Tell who started the service, if they want to know: ``READY=1``, ``STATUS=...``, ..."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    # Nobody there, or a full queue: the service goes on.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


def wants_signs_of_life() -> bool:
    """Whether ``WATCHDOG=1`` has to be reported now and then, or the service is taken for hung."""
    pid = os.environ.get("WATCHDOG_PID")
    return os.environ.get("WATCHDOG_USEC", "").isdecimal() and pid in (None, str(os.getpid()))


def passed_listener() -> Listener | None:
    """Return a listener over the socket that was passed to this process; None if none was.

    Raises
    ------
    Refusal
        It is not exactly one, or not such that a server can listen there.
    """
    given = os.environ.pop("LISTEN_PID", None), os.environ.pop("LISTEN_FDS", None)
    os.environ.pop("LISTEN_FDNAMES", None)
    if given[0] != str(os.getpid()) or given[1] in (None, "0"):
        return None  # they are for another process
    if given[1] != "1":
        raise Refusal(
            f"{given[1]} sockets were passed, and a server listens at one: leave one "
            "ListenStream= in the .socket unit"
        )
    try:
        os.set_inheritable(FIRST, False)
        sock = socket.socket(fileno=FIRST)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise Refusal(f"what was passed as descriptor {FIRST} is no socket: {error}") from None
    if sock.family not in (socket.AF_UNIX, socket.AF_INET):
        raise Refusal(
            "the socket that was passed is one of IPv6, which is not served: in the .socket unit "
            "write ListenStream=0.0.0.0:PORT, or the path of a Unix socket"
        )
    if sock.type != socket.SOCK_STREAM or not listens:
        raise Refusal(
            "the socket that was passed does not listen for streams: the .socket unit needs "
            "ListenStream= and Accept=no"
        )
    return Listener.adopt(sock)
