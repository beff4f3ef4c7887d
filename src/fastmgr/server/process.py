"""Being a manager's process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

from fastmgr.server.loop import share_heap
from fastmgr.server.server import Server

__all__ = ["run_server"]


def _travels(error: Exception) -> bool:
    """Whether an exception can be pickled and is the same afterwards."""
    try:
        return type(ForkingPickler.loads(ForkingPickler.dumps(error))) is type(error)
    except Exception:
        return False


def run_server(
    server_class: type[Server],
    registry: dict[str, Any],
    address: Any,
    authkey: bytes,
    serializer: str,
    writer: Any,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    arena: str | bool = True,
) -> NoReturn:
    """Be a manager's process: create the server, report its address, serve.

    Where that is impossible the error is reported in the address's place.
    """
    # Ctrl-C is for the program; it ends the manager when it is done with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share_heap()
    if initializer is not None:
        initializer(*initargs)
    try:
        server = server_class(registry, address, authkey, serializer)
        if arena is not True:
            server.use_arena(arena)
        server._watches_parent = True
        server._prepare()
    except Exception as error:
        if not _travels(error):
            raise
        writer.send(error)
        sys.exit(1)
    try:
        writer.send(server.address)
    except BrokenPipeError:
        sys.exit(1)  # the start was interrupted: nobody knows of this process
    writer.close()
    util.info("manager serving at %r", server.address)
    server.serve_forever()
