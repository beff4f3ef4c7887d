"""Metrics of workers that are killed at random moments: each increment that returned is counted.

``FASTMGR_PROMETHEUS_KILLS=1000`` kills as many; ``FASTMGR_SEED`` makes the same choices again.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, kill, poll

pytest.importorskip("prometheus_client")

KILLS = int(os.environ.get("FASTMGR_PROMETHEUS_KILLS", "30"))
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
RUNNING = 4
#: What a worker notes in a file: how many it has begun to count, and how many it has counted.
NOTES = struct.Struct("QQ")

pytestmark = pytest.mark.timeout(120 + KILLS)


def work(address: Any, path: str, number: int) -> None:
    """Count until killed; now and then what nobody has counted before."""
    import prometheus_client as pc

    from fastmgr.contrib import prometheus

    prometheus.use(address, KEY)
    hits = pc.Counter("hits", "Hits", ["path"])
    taken = pc.Histogram("taken", "Time", ["path"], buckets=[1, 2])
    pc.Gauge("busy", "Busy", multiprocess_mode="livesum").inc()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        # Each note is one store: `pack_into` first writes zeros, which a kill would leave there.
        notes = memoryview(memory).cast("Q")
        done = 0
        while True:
            label = str(done % 50 + number)
            notes[0] = done + 1
            hits.labels(label).inc(0.5)
            taken.labels(label).observe(1.5)
            done += 1
            notes[1] = done


def totals(address: Any) -> tuple[float, float, float]:
    """The hits, the observations, and how many are busy."""
    from prometheus_client import CollectorRegistry

    from fastmgr.contrib import prometheus
    from fastmgr.contrib.series import Series

    series = Series(address, KEY, prometheus.NAME)
    found = {"hits_total": 0.0, "taken_bucket": 0.0, "busy": 0.0}
    for metric in prometheus.Collector(CollectorRegistry(), series=series).collect():
        for sample in metric.samples:
            if sample.name in found and sample.labels.get("le") in (None, "2.0"):
                found[sample.name] += sample.value
    assert len(set(series.records.values())) >= len(series.records) - KILLS
    return found["hits_total"], found["taken_bucket"], found["busy"]


def test_each_increment_that_returned_is_counted(tmp_path: Path) -> None:
    """With SIGKILL, in the middle of anything: an increment, the claim of a series, the connect."""
    chance = random.Random(SEED)
    context: Any = multiprocessing.get_context("fork")
    with ProbeManager(authkey=KEY) as manager:
        running: list[tuple[Any, Path]] = []
        files = []
        for number in range(KILLS + RUNNING):
            path = tmp_path / str(number)
            path.write_bytes(bytes(NOTES.size))
            files.append(path)
            worker: Any = context.Process(
                target=work, args=(manager.address, str(path), number), daemon=True
            )
            worker.start()
            running.append((worker, path))
            if len(running) > RUNNING:
                victim, notes = running.pop(chance.randrange(len(running)))
                if chance.random() < 0.8:
                    poll(lambda notes=notes: NOTES.unpack(notes.read_bytes())[1] > 0, "it counts")
                time.sleep(chance.random() / 50)
                kill(victim.pid)
                victim.join(DEADLINE)
        for worker, _ in running:
            kill(worker.pid)
            worker.join(DEADLINE)
        counted = [NOTES.unpack(path.read_bytes()) for path in files]
        least, most = sum(done for _, done in counted), sum(begun for begun, _ in counted)
        assert least > KILLS
        poll(lambda: totals(manager.address)[2] == 0.0, "no gauge of the dead is shown")
        hits, observed, _ = totals(manager.address)
        assert least <= hits * 2 <= most, f"FASTMGR_SEED={SEED}"
        assert least <= observed <= most, f"FASTMGR_SEED={SEED}"
