"""Compare metrics of prefork workers: ``python benchmarks/peers/prometheus.py``.

The metrics are prometheus-client's: in one process, in its multiprocess mode, and on a fastmgr
server. They count, and they are scraped after 8 and after 200 workers have counted and ended. All
are measured in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from turns import OURS, Result, Row, run

import fastmgr
from fastmgr.contrib import prometheus

ONE, FILES, FEW = "one process", "multiprocess mode", "fastmgr after 8"
CLIENTS = {FILES: "square", ONE: "diamond", FEW: "pale bar", OURS: "circle"}
#: How many times as long as one process's an increment may take.
PART = 2.0
#: How many times as long a scrape after 200 workers may take as one after 8.
GROWTH = 1.5
ROWS = [
    Row("increment", "`counter.inc()`", {FILES: 1}, {ONE: PART}),
    Row("labels", "`counter.labels(path).inc()`", {}, {ONE: PART}),
    Row("gauge", "`gauge.inc()`", {FILES: 1}, {ONE: PART}),
    Row("observe", "`histogram.observe(0.3)`", {}, {ONE: PART}),
    Row("scrape-8", "a scrape, after 8 workers", {FILES: 2}),
    Row("scrape-200", "a scrape, after 200 workers", {FILES: 20}, {FEW: GROWTH}),
]
WORKERS = {"scrape-8": 8, "scrape-200": 200}
PATHS = [f"/page/{number}" for number in range(20)]


class Metrics:
    """The metrics of one program, which count in values of one kind."""

    def __init__(self, value: Any) -> None:
        self.value = values.ValueClass = value
        self.registry = CollectorRegistry()
        self.hits = Counter("hits", "Requests.", ["path"], registry=self.registry)
        self.taken = Histogram("taken", "Seconds.", ["path"], registry=self.registry)
        self.busy = Gauge(
            "busy", "Workers.", multiprocess_mode="livesum", registry=self.registry
        )  # fmt: skip
        self.hit, self.take = self.hits.labels(PATHS[0]), self.taken.labels(PATHS[0])
        self.steps: Mapping[str, Callable[[], object]] = {
            "increment": self.hit.inc,
            "labels": lambda: self.hits.labels(PATHS[0]).inc(),
            "gauge": self.busy.inc,
            "observe": lambda: self.take.observe(0.3),
        }

    def count(self) -> None:
        """Do what a worker does."""
        values.ValueClass = self.value  # of labels that come now
        self.busy.inc()
        for path in PATHS:
            self.hits.labels(path).inc()
            self.taken.labels(path).observe(0.3)


def be_worker(metrics: Sequence[Metrics]) -> int:
    """Have a worker count and end; return its process."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return pid
    try:
        for each in metrics:
            each.count()
    finally:
        os._exit(0)  # killed, as far as the metrics are concerned


def seconds_of(step: Callable[[], object], least: float) -> float:
    """Return the time of a step, made again and again for about `least` seconds."""
    timer = timeit.Timer("step()", globals={"step": step})
    number = max(1, int(least / max(timer.timeit(1), 1e-7)))
    return timer.timeit(number) / number


def compare(rows: Sequence[Row], alternations: int, least: float) -> list[Result]:
    """Measure each row in turns; each scrape must show what the workers have counted."""
    with fastmgr.SyncManager() as manager, tempfile.TemporaryDirectory() as folder:
        prometheus.use(manager.address, manager._authkey, registry=None)
        legs = {OURS: Metrics(values.ValueClass), ONE: Metrics(values.MutexValue)}
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        legs[FILES] = Metrics(values.MultiProcessValue())
        scraped = {OURS: CollectorRegistry(), FILES: CollectorRegistry()}
        prometheus.Collector(scraped[OURS])
        MultiProcessCollector(scraped[FILES])
        results: list[Result] = []
        come = 0
        for row in rows:
            steps = {name: leg.steps.get(row.name) for name, leg in legs.items()}
            if row.name in WORKERS:
                while come < WORKERS[row.name]:
                    mark_process_dead(be_worker([legs[OURS], legs[FILES]]))
                    come += 1
                shown = {name: generate_latest(scraped[name]).decode() for name in scraped}
                for text in shown.values():
                    assert f'hits_total{{path="{PATHS[-1]}"}} {come}.0\n' in text, text
                steps = {name: lambda name=name: generate_latest(scraped[name]) for name in scraped}
            seconds: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(alternations):
                for name, step in steps.items():
                    assert step is not None
                    seconds[name].append(seconds_of(step, least))
            if row.name == "scrape-200" and results and results[-1].row.name == "scrape-8":
                seconds[FEW] = list(results[-1].seconds[OURS])
            results.append(Result(row, seconds))
        return results


if __name__ == "__main__":
    sys.exit(
        run(
            "Time of one operation on metrics of prefork workers",
            ROWS,
            CLIENTS,
            compare,
            ("prometheus-client",),
            alternations=9,
            seconds=0.05,
        )
    )
