"""Client processes that all make the same call at the same time."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from cases import TIMED
from legs import FAST, LEGS, STOCK, Leg
from measure import SMOKE, Comparison, Effort, Loop, alternate, in_c


class Fleet:
    """Some processes, each connected to one manager and with an object of its own in it."""

    def __init__(self, leg: Leg, address: Any, case_name: str, effort: Effort) -> None:
        self.size = effort.clients
        self.pipes: list[Connection[Any, Any]] = []
        self.processes: list[Any] = []
        for _ in range(self.size):
            ours, theirs = multiprocessing.Pipe()
            self.pipes.append(ours)
            process = multiprocessing.Process(
                target=client, args=(leg.name, address, case_name, theirs, self.pipes), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
        for pipe in self.pipes:
            assert pipe.recv() == "ready"
        self.count = 10
        self.count = max(1, int(effort.client_seconds / (self.seconds() * self.size)))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exception: object) -> None:
        for pipe in self.pipes:
            pipe.send(0)
        for process in self.processes:
            process.join()

    def seconds(self) -> float:
        """Return the time from the first start to the last end, over the number of operations."""
        for pipe in self.pipes:
            pipe.send(self.count)
        spans: list[tuple[float, float]] = [pipe.recv() for pipe in self.pipes]
        spent = max(end for _, end in spans) - min(start for start, _ in spans)
        return spent / (self.count * self.size)


def client(
    leg_name: str,
    address: Any,
    case_name: str,
    pipe: Connection[Any, Any],
    parents: list[Connection[Any, Any]],
) -> None:
    """Run as many operations as the pipe says, until it says none."""
    for copy in parents:  # while there is one, a pipe does not end with the parent
        copy.close()
    leg = LEGS[leg_name]
    operation = TIMED[case_name].prepare(leg.connect(address))
    operation.check(leg)
    loop = Loop(operation.run, SMOKE)  # which warms up
    pipe.send("ready")
    while count := pipe.recv():
        start = perf_counter()
        loop.time(count)
        pipe.send((start, perf_counter()))


def compare_fleets(name: str, stock: Any, fast: Any, effort: Effort) -> Comparison:
    """Measure a case on two started managers, each with client processes of its own, and in C."""
    with (
        Fleet(STOCK, stock.address, name, effort) as on_stock,
        Fleet(FAST, fast.address, name, effort) as on_fast,
        in_c(name, effort, effort.clients) as c,
    ):
        return alternate(on_stock.seconds, on_fast.seconds, effort.alternations, c)
