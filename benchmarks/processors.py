"""How calls a second grow with processors: ``python benchmarks/processors.py``.

What a call takes of the server and of a client is measured with many clients on one processor, and
the round trip of one client on two.  From that a model computes what several clients on two
processors come to, which is compared with what is measured there, and what more would come to.
Calls that the server's threads serve are measured on two processors only, for what one thread needs
is mostly the lock that another has.  Linux only: it reads the clock of another process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from time import clock_gettime, perf_counter, process_time
from typing import Any

from legs import FastManager

#: Calls between two looks at the clock.
STEP = 20
PATIENCE = 60.0
#: Clients that keep the server busy while the parts of a call are measured.
CROWD = 6
#: Clients for which the model is compared with what two processors do.
CHECKED = (2, 4, 8)
PROCESSORS = (2, 8, 32, 128)
SPAWN = multiprocessing.get_context("spawn")


# -- measuring --------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A way to reach a shared object.

    Attributes
    ----------
    label : str
    step : callable
        Prepares a client: given an object by `make` it returns the operation.
    calls : bool
        Whether the server has to do something.
    arena : bool
        Whether the clients may share memory with the server.
    on_threads : bool
        Whether the server serves each client on a thread.
    """

    label: str
    make: Callable[[Any], Any]
    step: Callable[[Any], Callable[[], object]]
    calls: bool = True
    arena: bool = True
    on_threads: bool = False


def reading(shared: Any) -> Callable[[], object]:
    """Return what reads an item by a call each time."""
    shared._keeps = False
    return lambda: shared["key"]


KINDS = {
    "mail": Kind("call, by mailbox", lambda m: m.dict(key=1), reading),
    "loop": Kind("call, over a socket", lambda m: m.dict(key=1), reading, arena=False),
    "worker": Kind(
        "call of a user's class",
        lambda m: m.Account(),
        lambda shared: lambda: shared.deposit(1),
        on_threads=True,
    ),
    "read": Kind(
        "`d[k]` that nobody has changed",
        lambda m: m.dict(key=1),
        lambda shared: lambda: shared["key"],
        calls=False,
    ),
    "counter": Kind("`incr()` of counters", lambda m: m.Counter(), lambda c: c.incr, calls=False),
}


def work(name: str, shared: Any, pipe: Any) -> None:
    """Be a client: for as many seconds as the pipe says count operations, and the time they take.

    The processors that may be used come with the seconds.
    """
    operation = KINDS[name].step(shared)
    for seconds, processors in iter(pipe.recv, None):
        os.sched_setaffinity(0, processors)
        count, before, end = 0, process_time(), perf_counter() + seconds
        while perf_counter() < end:
            for _ in repeat(None, STEP):
                operation()
            count += STEP
        pipe.send((count, process_time() - before))


class Clients:
    """Client processes, each with an object of its own, or all with one."""

    def __init__(self, manager: Any, name: str, number: int, one: bool = False) -> None:
        kind = KINDS[name]
        self.server = manager._process.pid
        self.shared = [kind.make(manager) for _ in range(1 if one else number)]
        self.pipes: list[Any] = []
        self.processes: list[Any] = []
        before = os.environ.get("FASTMGR_ARENA", "on")
        os.environ["FASTMGR_ARENA"] = before if kind.arena else "off"
        for i in range(number):
            pipe, theirs = SPAWN.Pipe()
            args = (name, self.shared[0 if one else i], theirs)
            self.pipes.append(pipe)
            self.processes.append(SPAWN.Process(target=work, args=args, daemon=True))
            self.processes[-1].start()
        os.environ["FASTMGR_ARENA"] = before
        self.run(len(self.pipes), 0.05, os.sched_getaffinity(0))  # all of them are there now

    def run(self, number: int, seconds: float, processors: set[int]) -> tuple[float, float, float]:
        """Have some clients work.

        Returns
        -------
        float
            Operations a second.
        float, float
            Seconds of processor time that one takes of the server, and of its client.
        """
        for thread in os.listdir(f"/proc/{self.server}/task"):
            os.sched_setaffinity(int(thread), processors)
        before = clock_gettime(clock_of(self.server))
        for pipe in self.pipes[:number]:
            pipe.send((seconds, processors))
        answers = []
        for pipe in self.pipes[:number]:
            if not pipe.poll(PATIENCE):
                raise TimeoutError("a client does not answer")
            answers.append(pipe.recv())
        spent = clock_gettime(clock_of(self.server)) - before
        count = sum(done for done, _ in answers)
        return count / seconds, spent / count, sum(cpu for _, cpu in answers) / count

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(PATIENCE)


def clock_of(pid: int) -> int:
    """Return the clock of the processor time that a process has taken, as Linux numbers them."""
    return ~pid << 3 | 2


@contextmanager
def clients(manager: Any, name: str, number: int, one: bool = False) -> Iterator[Clients]:
    """Give clients, and end them."""
    made = Clients(manager, name, number, one)
    try:
        yield made
    finally:
        made.close()


# -- the model --------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Seconds of one call.

    Attributes
    ----------
    server, client : float
        Processor time, where clients share processors.
    alone : float
        From one call to the next of a client that has a processor for itself, as the server has.
    """

    server: float
    client: float
    alone: float

    def rate(self, processors: int, number: int) -> float:
        """Return the calls a second of one server's clients.

        A client calls, waits for those before it, and works for itself until its next call: the
        mean value analysis of a closed network of one queue.  Clients that share processors use no
        more of them than there are.
        """
        if number == 1 < processors:
            return 1 / self.alone
        length = rate = 0.0
        for n in range(1, number + 1):
            waits = self.server * (1 + length)
            rate = n / (waits + max(0.0, self.alone - self.server))
            length = rate * waits
        if number < processors:
            return rate
        return min(rate, processors / (self.server + self.client))

    def of_servers(self, processors: int) -> tuple[float, int]:
        """Return the most calls a second of several servers, and how many servers that takes."""
        return max(
            (servers * self.rate(processors, (processors - servers) // servers), servers)
            for servers in range(1, processors // 2 + 1)
        )


def parts_of(crowd: Clients, on_threads: bool, seconds: float, alternations: int) -> Parts:
    """Measure a kind: a crowd, on one processor unless that runs on threads; then one client."""
    processors = sorted(os.sched_getaffinity(0))
    one, two = set(processors[:1]), set(processors[:2])
    busy = [crowd.run(CROWD, seconds, two if on_threads else one) for _ in range(alternations)]
    alone = [crowd.run(1, seconds, two)[0] for _ in range(alternations)]
    server, client = (median(figures) for figures in list(zip(*busy, strict=True))[1:])
    return Parts(server, client, 1 / median(alone))


def checks(
    crowd: Clients, parts: Parts, seconds: float, alternations: int
) -> list[tuple[float, float]]:
    """Return what the model says of two processors, and what is so, for `CHECKED` clients."""
    two = set(sorted(os.sched_getaffinity(0))[:2])
    return [
        (
            parts.rate(2, number),
            median(crowd.run(number, seconds, two)[0] for _ in range(alternations)),
        )
        for number in CHECKED
    ]


# -- what is printed --------------------------------------------------------------


def row(*cells: object) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column has words."""
    return "\n".join([row(*heads), "|---|" + "---:|" * (len(heads) - 1), *(row(*x) for x in lines)])


def thousands(rate: float) -> str:
    """Return operations a second as the tables have them."""
    return f"{rate / 1e3:,.0f}"


def computed(parts: dict[str, Parts], shared: float) -> str:
    """Return what the model says, in thousands a second."""
    lines = []
    for name, found in parts.items():
        label = KINDS[name].label
        if not KINDS[name].calls:
            each = [thousands(n / found.client) for n in PROCESSORS]
            lines.append([label, *each])
            continue
        lines.append([f"{label}: one manager", *(
            thousands(found.rate(n, max(1, n - 1))) for n in PROCESSORS
        )])  # fmt: skip
        several = [found.of_servers(n) for n in PROCESSORS]
        lines.append([f"{label}: several", *(
            f"{thousands(rate)} ({servers})" for rate, servers in several
        )])  # fmt: skip
    lines.append(["`incr()` of one counter by all", *(repeat(thousands(shared), len(PROCESSORS)))])
    heads = [f"{n} processors" for n in PROCESSORS]
    return table(["thousands a second", *heads], lines)


def main() -> int:
    """Measure, compute and print."""
    parser = argparse.ArgumentParser(description="How calls a second grow with processors.")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="of one figure")
    parser.add_argument("--alternations", type=int, default=5, metavar="N")
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        parser.error("it needs Linux and two processors")
    effort = options.seconds, options.alternations
    load = os.getloadavg()[0]
    parts: dict[str, Parts] = {}
    compared = []
    with FastManager() as manager:
        for name, kind in KINDS.items():
            with clients(manager, name, max(CHECKED) if kind.calls else CROWD) as crowd:
                parts[name] = found = parts_of(crowd, kind.on_threads, *effort)
                if kind.calls:
                    compared.append([kind.label, *(
                        f"{thousands(said)} / {thousands(so)} ({said / so - 1:+.0%})"
                        for said, so in checks(crowd, found, *effort)
                    )])  # fmt: skip
        with clients(manager, "counter", 2, one=True) as crowd:
            two = set(sorted(os.sched_getaffinity(0))[:2])
            shared = median(crowd.run(2, options.seconds, two)[0] for _ in range(effort[1]))
    print(table(
        ["µs of one", "server", "client", "one client, round trip"],
        [
            [KINDS[name].label, *(
                f"{1e6 * part:.3g}" if KINDS[name].calls or part is found.client else ""
                for part in (found.server, found.client, found.alone)
            )]
            for name, found in parts.items()
        ],
    ))  # fmt: skip
    print("\n" + computed(parts, shared))
    heads = [f"{n} clients" for n in CHECKED]
    print("\n" + table(["2 processors: model / measured", *heads], compared))
    print(f"\nload at the beginning {load:.1f}; {len(os.sched_getaffinity(0))} processors here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
