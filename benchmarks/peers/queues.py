"""Compare queues between processes of one machine: ``python benchmarks/peers/queues.py``.

Processes that put and processes that get share one queue: of fastmgr, of multiprocessing, of its
manager, and of faster-fifo.  One process that does both is measured, too.  The queues are measured
in turns.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.managers import SyncManager as StockManager
from time import perf_counter
from typing import Any

from turns import OURS, Result, Row, run

from fastmgr.managers import SyncManager

PLAIN, MANAGER, FIFO = "mp.Queue", "mp.Manager", "faster-fifo"
#: The queues, and how the chart marks each.
CLIENTS = {OURS: "circle", PLAIN: "square", MANAGER: "pale bar", FIFO: "diamond"}
#: Items of one `put_many`, and the most of one `get_many`.
MANY = 100
#: The least items of a figure.
FEW = 100
#: Seconds in which processes have to answer.
PATIENCE = 120.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Workload(Row):
    """What the processes do.

    Attributes
    ----------
    pairs : int
        How many processes put, and how many get; 0 for one that does both.
    size : int
        Bytes of an item.
    many : bool
        Whether they do it by `put_many` and `get_many`.
    """

    pairs: int = 0
    size: int = 10
    many: bool = False


def _transfer(pairs: int, size: int, many: bool) -> Workload:
    """Return a workload in which items go from some processes to others."""
    way = "many" if many else "one"
    calls = "`put_many`, `get_many`" if many else "`put`, `get`"
    return Workload(
        f"{pairs}_{size}_{way}",
        f"{calls}: {pairs} to {pairs}, {size:,} bytes",
        {FIFO: 2.0} if many else {PLAIN: 5.0, FIFO: 3.0},
        pairs=pairs,
        size=size,
        many=many,
    )


WORKLOADS = [
    Workload("pair", "`put` and `get` in one process, 10 bytes", {}, limit=0.5e-6),
    *(_transfer(n, size, many) for n in (1, 4) for size in (10, 1000) for many in (False, True)),
]


# -- the processes ----------------------------------------------------------------


def produce(q: Any, pipe: Any) -> None:
    """Put as many items as the pipe says, and one that says that these were all."""
    for count, size, many in iter(pipe.recv, None):
        item = b"x" * size
        if many:
            for at in range(0, count, MANY):
                q.put_many([item] * min(MANY, count - at))
        else:
            for _ in repeat(None, count):
                q.put(item)
        q.put(None)
        pipe.send((0, 0.0))


def consume(q: Any, pipe: Any) -> None:
    """Get items until one says that a producer's were all; say how many these were, and when."""
    fifo = type(q).__module__ == "faster_fifo"
    for _, _, many in iter(pipe.recv, None):
        got = ends = 0
        while not ends:
            if not many:
                ends = q.get() is None
                got += not ends
                continue
            items = q.get_many(max_messages_to_get=MANY) if fifo else q.get_many(MANY)
            ends = items.count(None)
            got += len(items) - ends
        for _ in repeat(None, ends - 1):
            q.put(None)  # another consumer's
        pipe.send((got, perf_counter()))


class Crowd:
    """Processes that share a queue."""

    def __init__(self, q: Any, pairs: int) -> None:
        self.q = q  # a process that is spawned takes its own reference only when it is running
        self.pipes: list[Any] = []
        self.processes: list[Any] = []
        for function in (*repeat(consume, pairs), *repeat(produce, pairs)):
            pipe, theirs = SPAWN.Pipe()
            self.pipes.append(pipe)
            self.processes.append(SPAWN.Process(target=function, args=(q, theirs), daemon=True))
            self.processes[-1].start()
            theirs.close()
        self.pairs = pairs

    def __call__(self, workload: Workload, count: int) -> float:
        """Return the seconds of one item, of `count` or a few more."""
        each = -(-count // self.pairs)
        start = perf_counter()
        for pipe in self.pipes:
            pipe.send((each, workload.size, workload.many))
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"{workload.name}: a process does not answer")
            answers.append(pipe.recv())
        if sum(got for got, _ in answers) != each * self.pairs:
            raise RuntimeError(f"{workload.name}: {answers}, not {each * self.pairs} items")
        seconds: float = max(end for _, end in answers) - start
        return seconds / (each * self.pairs)

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(PATIENCE)


# -- the queues -------------------------------------------------------------------


#: A queue that is measured: the seconds of one item of a workload, in `count` of them.
Client = Callable[[Workload, int], float]


def alone(q: Any) -> Client:
    """Return the client that is one process, this one."""

    def measure(workload: Workload, count: int) -> float:
        item = b"x" * workload.size
        put, get = q.put, q.get
        start = perf_counter()
        for _ in repeat(None, count):
            put(item)
            get()
        return (perf_counter() - start) / count

    return measure


@contextmanager
def makers() -> Iterator[dict[str, Callable[[], Any]]]:
    """Give what makes a queue of each kind; faster-fifo's where that is installed."""
    os.environ.pop("FASTMGR_ADDRESS", None)
    with SyncManager() as ours, StockManager() as stock:
        made: dict[str, Callable[[], Any]] = {
            OURS: ours.Queue,
            PLAIN: SPAWN.Queue,
            MANAGER: stock.Queue,
        }
        try:
            import faster_fifo
            import faster_fifo_reduction  # noqa: F401 (its queues can then be pickled)
        except ImportError:
            pass
        else:
            made[FIFO] = faster_fifo.Queue
        yield made


def measure(rows: Sequence[Any], alternations: int, seconds: float) -> list[Result]:
    """Measure all queues in turns."""
    results = []
    with makers() as made:
        for pairs in sorted({workload.pairs for workload in rows}):
            with ExitStack() as stack:
                clients: dict[str, Client] = {}
                for name, make in made.items():
                    if not pairs:
                        clients[name] = alone(make())
                        continue
                    clients[name] = crowd = Crowd(make(), pairs)
                    stack.callback(crowd.close)
                for workload in rows:
                    if workload.pairs == pairs:
                        results.append(in_turns(workload, clients, alternations, seconds))
    return results


def in_turns(
    workload: Workload, everybody: dict[str, Client], alternations: int, seconds: float
) -> Result:
    """Measure the queues that have what a workload needs."""
    clients = {
        name: client
        for name, client in everybody.items()
        if not workload.many or name in (OURS, FIFO)
    }
    for client in clients.values():
        client(workload, FEW)  # until all processes have started, and know the queue
    counts = {name: enough(client, workload, seconds) for name, client in clients.items()}
    turns = [
        [client(workload, counts[name]) for name, client in clients.items()]
        for _ in range(alternations)
    ]
    return Result(workload, dict(zip(clients, zip(*turns, strict=True), strict=True)))


def enough(client: Client, workload: Workload, seconds: float) -> int:
    """Return how many items take about so many seconds; this warms up, too."""
    count = FEW
    while (spent := client(workload, count) * count) < 0.8 * seconds:
        count = max(count + 1, int(count * min(10, seconds / spent)))
    return count


def main() -> int:
    """Measure what the command line asks for, and print it."""
    title = "Queues between processes of one machine: time of an item"
    return run(title, WORKLOADS, CLIENTS, measure, [FIFO], alternations=7, seconds=0.2)


if __name__ == "__main__":
    sys.exit(main())
