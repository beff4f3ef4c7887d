"""What a client that does nothing costs the server: its memory and its threads."""

from __future__ import annotations

import gc
import multiprocessing
import re
import resource
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from legs import FAST, LEGS, STOCK, Leg

from fastmgr.client.sessions import ClientSession

CLIENTS = {FAST.name: 1000, STOCK.name: 300}
"""A thousand threads would take the stock server, and this machine, too long."""
FIRST = 50
"""Clients that come before the measured ones, for what a server makes room for only once."""
KIB = 1024


def can_measure_idle() -> bool:
    """Whether the system tells what memory another process has to itself."""
    return Path("/proc/self/smaps_rollup").exists()


def idle_costs() -> dict[str, tuple[float, float]]:
    """Return what one more idle client adds to a server: on stock, on fastmgr."""
    stock, fast = (idle_cost(leg) for leg in (STOCK, FAST))
    return {name: (stock[name], fast[name]) for name in stock}


def idle_cost(leg: Leg) -> dict[str, float]:
    """Connect many clients that make one call each, and see how the server has grown.

    What the kernel keeps for a connection is no process's, and is not in here.
    """
    clients = CLIENTS[leg.name]
    allow_files(clients + FIRST)
    # The server is a fork of this process. What its collector would visit of what was here before
    # it would have to copy, and that is nothing that clients cost.
    gc.collect()
    gc.freeze()
    with leg.start() as manager:
        gc.unfreeze()
        ours, theirs = multiprocessing.Pipe()  # not before: the server must have no copy
        shared = manager.dict({"key": 1})
        leg.assert_own(shared)
        process = multiprocessing.Process(
            target=be_clients, args=(leg.name, shared, theirs, ours), daemon=True
        )
        process.start()
        theirs.close()
        try:
            before = grown(ours, FIRST, manager._process.pid)
            after = grown(ours, clients, manager._process.pid)
        finally:
            ours.send(0)
            process.join()
    memory, threads = (end - start for start, end in zip(before, after, strict=True))
    return {
        "KiB of memory": round(memory / KIB / clients, 1),
        "threads": round(threads / clients, 2),
    }


def allow_files(connections: int) -> None:
    """Let the processes started from now on have that many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 100
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def grown(pipe: Connection[Any, Any], clients: int, server: int) -> tuple[int, int]:
    """Have so many more clients connect; return the server's bytes and threads then."""
    pipe.send(clients)
    assert pipe.recv() == [1] * clients
    memory = Path(f"/proc/{server}/smaps_rollup").read_text()
    status = Path(f"/proc/{server}/status").read_text()
    (private,) = re.findall(r"^Private_Dirty: +(\d+) kB", memory, re.MULTILINE)
    (threads,) = re.findall(r"^Threads:\s+(\d+)", status, re.MULTILINE)
    return int(private) * KIB, int(threads)


def be_clients(
    leg_name: str, shared: Any, pipe: Connection[Any, Any], parents: Connection[Any, Any]
) -> None:
    """Be as many more clients as the pipe says, until it says none."""
    parents.close()  # while there is a copy, the pipe does not end with the parent
    LEGS[leg_name].assert_own(shared)
    crowd = FastCrowd(shared) if leg_name == FAST.name else StockCrowd(shared)
    while count := pipe.recv():
        pipe.send([crowd.join() for _ in range(count)])
    crowd.leave()


class FastCrowd:
    """Clients of fastmgr: a session of its own makes each another process to the server."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared
        self.held: list[Any] = []

    def join(self) -> Any:
        """Connect one more client, which takes a reference and makes a call; return its result."""
        own = self.shared._session_of()
        session = ClientSession(own.address, own.serializer, own.authkey)
        self.held.append((session, session.acquire(self.shared)))
        (result,), _others = session.pipeline([self.shared, "__getitem__", ("key",), None])
        return result

    def leave(self) -> None:
        """Disconnect them all."""
        self.held.clear()


class StockCrowd:
    """Clients of the stock manager: its connections are threads'."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared
        self.over = threading.Event()

    def join(self) -> Any:
        """Connect one more client, which makes a call; return its result."""
        results: list[Any] = []
        connected = threading.Event()

        def client() -> None:
            try:
                results.append(self.shared["key"])
            finally:
                connected.set()
            self.over.wait()

        threading.Thread(target=client).start()
        connected.wait()
        return results[0]

    def leave(self) -> None:
        """Let the threads end, and with them their connections."""
        self.over.set()
