"""Being a manager's process: its main function, and its threads."""

from __future__ import annotations

import os
import platform
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NoReturn

from fastmgr.server.driver import share_heap

if TYPE_CHECKING:
    from fastmgr.server.server import Server

__all__ = ["Workers", "describe", "leave_if_copied", "own_version", "run_server"]

#: Seconds that a thread without work waits for some before it ends.
LINGER = 5.0

_Job = tuple[Callable[..., Any], str, tuple[Any, ...]]


def leave_if_copied(pid: int) -> None:
    """End this process if it is not `pid` but a fork of it, which a server's job has made and left.

    The copy has nobody to serve; its exit handlers are about what is the server's.
    """
    if os.getpid() != pid:
        util._flush_std_streams()  # type: ignore[attr-defined]
        os._exit(0)


class Workers:
    """An elastic pool: a job never waits for another to finish.

    A bounded pool would deadlock: the ``put`` that frees N blocked ``get`` calls would queue behind
    them.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job]] = []
        #: The threads that there are, without work or with some.
        self.threads: set[threading.Thread] = set()

    def submit(self, function: Callable[..., Any], name: str, *args: Any) -> None:
        """Run ``function(*args)`` on a thread of that name; False from it ends the thread."""
        job = (function, name, args)
        try:
            inbox = self._idle.pop()  # atomic; the last to have become idle is the warmest
        except IndexError:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(inbox,), daemon=True).start()
        inbox.put(job)

    @property
    def idle(self) -> int:
        """How many threads have no work."""
        return len(self._idle)

    def _run(self, inbox: queue.SimpleQueue[_Job]) -> None:
        thread = threading.current_thread()
        self.threads.add(thread)
        try:
            self._work(inbox, thread)
        finally:
            self.threads.discard(thread)

    def _work(self, inbox: queue.SimpleQueue[_Job], thread: threading.Thread) -> None:
        pid = os.getpid()
        while True:
            try:
                function, thread.name, args = inbox.get(timeout=LINGER)
            except queue.Empty:
                try:
                    self._idle.remove(inbox)
                except ValueError:
                    continue  # taken out by `submit` this moment: a job is on its way
                return
            try:
                reusable = function(*args)
            finally:
                leave_if_copied(pid)
            del function, args  # what a job was given must not outlive it here
            if reusable is False:
                return
            self._idle.append(inbox)


def own_version() -> str:
    """Return the version of fastmgr in this process."""
    from importlib.metadata import version  # which few programs ask for

    return version("fastmgr")


def describe(server: Server) -> dict[str, Any]:
    """Return what is known of a server's process, for `Server.about`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "version": own_version(),
        "python": platform.python_version(),
        "process": os.getpid(),
        "processors": processors(),
        "descriptors": len(os.listdir("/dev/fd")),
        "most_descriptors": soft,
        "hard_descriptors": hard,
        "threads": threading.active_count(),
        "objects": len(server.table.entries),
        "clients": len(server.table.sessions),
        "shares_memory": server.arena is not None,
        "file": None if server.names.file is None else server.names.file.path,
    }


def processors() -> int:
    """Return on how many processors this process may run."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on this system, or not in this sandbox
        return os.cpu_count() or 1


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
    """Be a manager's process: create the server, report its address or the error, serve."""
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
