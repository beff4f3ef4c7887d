"""Queues in shared memory, whose producers and consumers are killed: no item twice, none in half.

``FASTMGR_RING_KILLS=1000`` kills as many; ``FASTMGR_SEED`` repeats a run, as far as that goes.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager, kill
from support.places import with_ring

KILLS = int(os.environ.get("FASTMGR_RING_KILLS", "40"))
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
FORK: Any = multiprocessing.get_context("fork")
RECORD = struct.Struct("<II")
RUNNING = 6

pytestmark = pytest.mark.timeout(120 + KILLS)


def notes(path: Path) -> list[tuple[int, int]]:
    """What a process has noted that may have been killed."""
    data = path.read_bytes()
    return list(RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]))


def item_of(number: int, sent: int) -> tuple[Any, ...]:
    """An item; some have no room in a ring, and some need pickle."""
    if sent % 97 == 96:
        return number, sent, "x" * 150_000
    return (number, sent, Path("pickled")) if sent % 89 == 88 else (number, sent)


def produce(q: Any, number: int, path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sent = 0
    while True:
        q.put(item_of(number, sent))
        os.write(log, RECORD.pack(number, sent))
        sent += 1


def consume(q: Any, number: int, path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        got, sent, *_ = q.get() if number % 4 else q.get(True, 60)
        os.write(log, RECORD.pack(got, sent))


def kill_at_random(q: Any, folder: Path, rng: random.Random) -> None:
    running: list[Any] = []
    for number in range(KILLS + RUNNING):
        work = consume if number % 2 else produce
        process = FORK.Process(target=work, args=(q, number, str(folder / f"{number}")))
        process.start()
        running.append(process)
        if len(running) > RUNNING or number >= KILLS:
            time.sleep(rng.random() * 0.03)
            process = running.pop(rng.randrange(len(running)))
            kill(process.pid)
            process.join()
    for process in running:
        kill(process.pid)
        process.join()


@pytest.mark.parametrize("maxsize", [0, 50])
def test_kills_leave_exact_counts(maxsize: int, tmp_path: Path) -> None:
    print(f"FASTMGR_SEED={SEED}")
    with ProbeManager(authkey=KEY) as manager:
        q = with_ring(manager.JoinableQueue(maxsize))
        kill_at_random(q, tmp_path, random.Random(SEED))
        left = []
        while True:
            try:
                left.append(q.get(timeout=1)[:2])
            except queue.Empty:
                break
        put, got, lost = {}, list(left), 0
        for path in tmp_path.iterdir():
            if int(path.name) % 2:
                got += notes(path)
                lost += 1
            else:
                put[int(path.name)] = len(notes(path))
        assert len(got) == len(set(got)), "no item is taken twice"
        missing = 0
        for number, count in put.items():
            seen = sorted(sent for owner, sent in got if owner == number)
            # The last may have been put, and its producer killed before it could say so.
            assert not seen or seen[-1] <= count
            missing += max(count, seen[-1] + 1 if seen else 0) - len(seen)
        assert missing <= lost, "each consumer that was killed may have taken one"
        last: dict[int, int] = {}
        for number, sent in left:
            assert last.get(number, -1) < sent
            last[number] = sent
        # The queue works as before.
        q.put("again")
        assert q.get() == "again"
        assert len(put) > 1 and len(got) > 0
