"""Compare counting on fastmgr and on Redis: ``python benchmarks/peers/redis_pipeline.py``.

Client processes add 1 to one shared counter, one call at a time or many in a pipeline. Both servers
are on this machine, behind Unix sockets, and both clients are Python: `dict.incr` of fastmgr, and
redis-py's `incr` and `hincrby`, with its own parser and, where hiredis is installed, with that one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any, Protocol

import fastmgr
from fastmgr.cli import chart
from fastmgr.managers import SyncManager

KEY = "counter"
HASH = "counters"
CLIENTS = 8
START_SECONDS = 10.0
"""How long a server may take to start, and to end before it is killed."""


@dataclass(frozen=True)
class Workload:
    """What the clients do: `batch` calls at a time, 1 for plain calls."""

    name: str
    label: str
    batch: int = 1
    clients: int = 1
    hashed: bool = False
    """Redis counts in a field of a hash. fastmgr does the same in either case."""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("plain", "one at a time"),
        Workload("pipeline_100", "pipelines of 100", batch=100),
        Workload("pipeline_1000", "pipelines of 1,000", batch=1000),
        Workload("pipeline_10000", "pipelines of 10,000", batch=10_000),
        Workload("hash_1000", "pipelines of 1,000, `HINCRBY`", batch=1000, hashed=True),
        Workload("plain_clients", f"one at a time, {CLIENTS} clients", clients=CLIENTS),
        Workload(
            "pipeline_clients",
            f"pipelines of 1,000, {CLIENTS} clients",
            batch=1000,
            clients=CLIENTS,
        ),
    )
}


# -- the contenders ------------------------------------------------------------


class Client(Protocol):
    """One connection to one server."""

    def run(self, workload: Workload, batches: int) -> None:
        """Add 1 to the counter `batches` times a batch."""

    def total(self, workload: Workload) -> int:
        """Return the counter."""

    def reset(self) -> None:
        """Begin at 0."""


class Leg(Protocol):
    """A contender: how a process becomes its client."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def connect(self) -> Client:
        """Connect the calling process."""


class FastClient:
    """A client of fastmgr."""

    def __init__(self, manager: SyncManager, counts: Any) -> None:
        self.manager = manager
        self.counts = counts

    def run(self, workload: Workload, batches: int) -> None:
        """Add 1 to the counter `batches` times a batch."""
        if workload.batch == 1:
            incr = self.counts.incr
            for _ in repeat(None, batches):
                incr(KEY)
            return
        for _ in repeat(None, batches):
            with self.manager.pipeline() as pipe:
                incr = pipe(self.counts).incr
                for _ in repeat(None, workload.batch):
                    incr(KEY)
                results = pipe.execute()
            require(len(results), workload.batch, "results of a pipeline")

    def total(self, workload: Workload) -> int:
        """Return the counter."""
        return self.counts.get(KEY, 0)

    def reset(self) -> None:
        """Begin at 0."""
        self.counts.clear()


@dataclass(frozen=True)
class FastLeg:
    """fastmgr: a server and a dict in it."""

    address: Any
    counts: Any
    name = "fastmgr"

    def connect(self) -> FastClient:
        """Connect the calling process."""
        return FastClient(SyncManager.from_address(self.address), self.counts)


class RedisClient:
    """A client of Redis."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(self, workload: Workload, batches: int) -> None:
        """Add 1 to the counter `batches` times a batch.

        Without a transaction: it would have the server queue each batch between MULTI and EXEC and
        reply to every command twice. fastmgr's pipelines are no transactions either.
        """
        if workload.batch == 1:
            incr = self.client.incr
            for _ in repeat(None, batches):
                incr(KEY)
            return
        for _ in repeat(None, batches):
            with self.client.pipeline(transaction=False) as pipe:
                if workload.hashed:
                    hincrby = pipe.hincrby
                    for _ in repeat(None, workload.batch):
                        hincrby(HASH, KEY, 1)
                else:
                    incr = pipe.incr
                    for _ in repeat(None, workload.batch):
                        incr(KEY)
                results = pipe.execute()
            require(len(results), workload.batch, "results of a pipeline")

    def total(self, workload: Workload) -> int:
        """Return the counter."""
        value = self.client.hget(HASH, KEY) if workload.hashed else self.client.get(KEY)
        return int(value or 0)

    def reset(self) -> None:
        """Begin at 0."""
        self.client.delete(KEY, HASH)


@dataclass(frozen=True)
class RedisLeg:
    """redis-py on a Redis server."""

    name: str
    path: str
    hiredis: bool

    def connect(self) -> RedisClient:
        """Connect the calling process, by the parser and the packer of this leg.

        redis-py takes hiredis for both wherever it is installed, so each leg names its own.
        """
        import redis
        from redis._parsers import Encoder, _HiredisParser, _RESP2Parser
        from redis.connection import HiredisRespSerializer, PythonRespSerializer

        packer: Any
        if self.hiredis:
            packer = HiredisRespSerializer()
        else:
            packer = PythonRespSerializer(6000, Encoder("utf-8", "strict", False).encode)
        pool = redis.ConnectionPool(
            connection_class=redis.UnixDomainSocketConnection,
            path=self.path,
            # Where RESP3 is spoken redis-py puts its own parser for that in this one's place.
            parser_class=_HiredisParser if self.hiredis else _RESP2Parser,
            command_packer=packer,
        )
        client = redis.Redis(connection_pool=pool)
        client.ping()
        connection = pool.get_connection()
        require(isinstance(connection._parser, _HiredisParser), self.hiredis, "parser of hiredis")
        require(connection._command_packer, packer, "packer of commands")
        pool.release(connection)
        return RedisClient(client)


def require(found: object, expected: object, what: str) -> None:
    """Stop a benchmark that did not do what it says."""
    if found != expected:
        raise RuntimeError(f"{what}: {found!r}, not {expected!r}")


# -- servers -------------------------------------------------------------------


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server that keeps nothing on disk, and give its socket's path."""
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        path, log = f"{directory}/redis.sock", Path(directory, "redis.log")
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", directory]
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = monotonic() + START_SECONDS
            while not is_listening(path):
                if process.poll() is not None or monotonic() > deadline:
                    sys.exit(f"redis-server did not start:\n{log.read_text()}")
                sleep(0.01)
            yield path
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_listening(path: str) -> bool:
    """Whether a server accepts connections there."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


@contextmanager
def all_legs() -> Iterator[list[Leg]]:
    """Start both servers; fastmgr's leg comes first."""
    from redis.utils import HIREDIS_AVAILABLE

    with redis_server() as path, SyncManager() as manager:
        legs: list[Leg] = [FastLeg(manager.address, manager.dict())]
        legs.append(RedisLeg("redis-py", path, hiredis=False))
        if HIREDIS_AVAILABLE:
            legs.append(RedisLeg("redis-py with hiredis", path, hiredis=True))
        yield legs


# -- measuring -----------------------------------------------------------------


class Fleet:
    """Client processes of one leg, and a connection of our own that looks at the counter."""

    def __init__(self, leg: Leg) -> None:
        self.control = leg.connect()
        self.pipes: list[Connection[Any, Any]] = []
        self.processes: list[Any] = []
        for _ in range(CLIENTS):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.Process(target=serve, args=(leg, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            require(pipe.recv(), "ready", "a client's first word")

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self.processes:
            process.terminate()
            process.join()

    def seconds(self, workload: Workload, batches: int) -> float:
        """Return the time from the first client's start to the last one's end."""
        pipes = self.pipes[: workload.clients]
        self.control.reset()
        for pipe in pipes:
            pipe.send((workload, batches))
        spans: list[tuple[float, float]] = [pipe.recv() for pipe in pipes]
        expected = workload.clients * workload.batch * batches
        require(self.control.total(workload), expected, f"total of {workload.name}")
        return max(end for _, end in spans) - min(start for start, _ in spans)


def serve(leg: Leg, pipe: Connection[Any, Any]) -> None:
    """Be a client: do what the pipe says."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ours to stop, not the terminal's
    client = leg.connect()
    pipe.send("ready")
    while True:
        workload, batches = pipe.recv()
        start = perf_counter()
        client.run(workload, batches)
        pipe.send((start, perf_counter()))


class Meter:
    """Measures a workload on one leg, with enough batches for the clock."""

    def __init__(self, fleet: Fleet, workload: Workload, seconds: float) -> None:
        self.fleet = fleet
        self.workload = workload
        self.batches = 1
        while (spent := fleet.seconds(workload, self.batches)) < 0.8 * seconds:  # warms up, too
            more = int(self.batches * min(10, seconds / spent))
            self.batches = max(self.batches + 1, more)

    def rate(self) -> float:
        """Return the calls a second of all clients together."""
        calls = self.workload.clients * self.workload.batch * self.batches
        return calls / self.fleet.seconds(self.workload, self.batches)


@dataclass(frozen=True)
class Result:
    """Calls a second on each leg, one figure for each alternation."""

    workload: Workload
    rates: Mapping[str, Sequence[float]]

    def ratios(self, name: str) -> list[float]:
        """How many times a leg's figures fastmgr's are, in each alternation."""
        pairs = zip(self.rates[FastLeg.name], self.rates[name], strict=True)
        return [fast / other for fast, other in pairs]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for a report."""
        return {
            name: {
                "median": median(rates),
                "best": max(rates),
                "ratio": median(self.ratios(name)),
                "ratio_min": min(self.ratios(name)),
                "ratio_max": max(self.ratios(name)),
            }
            for name, rates in self.rates.items()
        }


def measure(workloads: Sequence[Workload], alternations: int, seconds: float) -> list[Result]:
    """Measure all legs in turns."""
    results: list[Result] = []
    with all_legs() as legs, ExitStack() as stack:
        fleets = {leg.name: stack.enter_context(Fleet(leg)) for leg in legs}
        for workload in workloads:
            meters = [Meter(fleet, workload, seconds) for fleet in fleets.values()]
            turns = [[meter.rate() for meter in meters] for _ in range(alternations)]
            rates = dict(zip(fleets, zip(*turns, strict=True), strict=True))
            results.append(Result(workload, rates))
    return results


# -- reports -------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return what was compared."""
    output = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
    words = dict(word.split("=", 1) for word in output.split() if "=" in word)
    found = {
        "processors": str(os.cpu_count()),
        platform.python_implementation(): platform.python_version(),
        "fastmgr": fastmgr.__version__,
        "redis-server": words.get("v", "unknown"),
        "redis-py": metadata.version("redis"),
    }
    if find_spec("hiredis"):
        found["hiredis"] = metadata.version("hiredis")
    return found


def markdown(results: Sequence[Result]) -> str:
    """Return a table: medians, the best in brackets, and how many times faster fastmgr is."""
    fast, *others = results[0].rates
    titles = [fast, *(title for name in others for title in (name, "ratio"))]
    lines = [f"| calls a second: median (best) | {' | '.join(titles)} |"]
    lines.append("|---|" + "---:|" * len(titles))
    for result in results:
        found = result.as_dict()
        cells = [f"{found[fast]['median']:,.0f} ({found[fast]['best']:,.0f})"]
        for name in others:
            cells.append(f"{found[name]['median']:,.0f} ({found[name]['best']:,.0f})")
            cells.append(f"**{found[name]['ratio']:.1f}**")
        lines.append(f"| {result.workload.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


# -- the command ---------------------------------------------------------------


def plot(results: Sequence[Result], path: Path, caption: str) -> None:
    """Draw the medians, as the time of a call."""
    rows = {
        result.workload.label.replace("`", ""): {
            leg: 1 / median(rates) for leg, rates in result.rates.items()
        }
        for result in results
    }
    columns = {
        f"{leg}, 1/s": [f"{median(result.rates[leg]):,.0f}" for result in results]
        for leg in results[0].rates
    }
    fast, *others = results[0].rates
    looks = dict(zip(others, ("square", "bar"), strict=False)) | {fast: "circle"}
    title = "Adding 1 to a shared counter from Python, over a Unix socket: time of a call"
    chart.draw(title, [chart.Panel("", rows, columns)], looks, path, caption)


def check_needs() -> None:
    """Say what is missing, if anything is."""
    if shutil.which("redis-server") is None:
        sys.exit("redis-server is not on PATH; Debian and Ubuntu: apt-get install redis-server")
    if find_spec("redis") is None:
        requirements = Path(__file__).with_name("requirements.txt")
        sys.exit(f"redis is not installed: python -m pip install -r {requirements}")


def main() -> int:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description="Compare counting on fastmgr and on Redis.")
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"only these; default: all of {', '.join(WORKLOADS)}",
    )
    parser.add_argument(
        "--alternations", type=int, default=9, metavar="N", help="of the legs (default: 9)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.15, metavar="S", help="of one figure (default: 0.15)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--plot", type=chart.file, metavar="FILE", help="draw it too: an .svg, .png or .pdf"
    )
    options = parser.parse_args()
    if unknown := set(options.workloads) - WORKLOADS.keys():
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    if options.alternations < 1:
        parser.error("--alternations: 1 at the least")
    check_needs()

    stop_in_order(signal.SIGTERM, signal.SIGHUP)
    names = options.workloads or list(WORKLOADS)
    results = measure([WORKLOADS[name] for name in names], options.alternations, options.seconds)
    compared = versions()
    caption = ", ".join(f"{name} {version}" for name, version in compared.items())
    if options.json:
        figures = {result.workload.name: result.as_dict() for result in results}
        print(json.dumps({"versions": compared, "calls_per_second": figures}, indent=2))
    else:
        print(f"{markdown(results)}\n\n{caption}; alternations: {options.alternations}")
    if options.plot:
        plot(results, options.plot, caption)
    return 0


def stop_in_order(*signals: int) -> None:
    """Let signals end the command as an exception does, so that the servers are stopped."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in signals:
        signal.signal(number, leave)


if __name__ == "__main__":
    sys.exit(main())
