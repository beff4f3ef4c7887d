"""Queues in shared memory, whose producers and consumers are killed: no item twice, none in half.

Others are stopped in the middle of what they do, and nobody waits for them for long.

``FASTMGR_RING_KILLS=1000`` kills as many, ``FASTMGR_RING_STOPS=200`` stops as many;
``FASTMGR_SEED`` repeats a run, as far as that goes.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager, kill, poll
from support.places import with_ring
from support.processes import stopped

import fastmgr

KILLS = int(os.environ.get("FASTMGR_RING_KILLS", "40"))
#: How often one is stopped; 0: until some were stopped while they had the ring.
STOPS = int(os.environ.get("FASTMGR_RING_STOPS", "0"))
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
FORK: Any = multiprocessing.get_context("fork")
RECORD = struct.Struct("<II")
RUNNING = 6
BATCH = 20
OWNER_BITS = (1 << 56) - 1
#: Seconds: one that looks at a ring, and more where the machine is busy.
LONGEST = 10

pytestmark = pytest.mark.timeout(120 + KILLS + 10 * STOPS)


def notes(path: Path) -> Iterator[tuple[int, int]]:
    """What a process has noted that may have been killed."""
    data = path.read_bytes()
    return RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])


def noted(path: Path) -> int:
    return path.stat().st_size // RECORD.size


def taken(got: Iterable[tuple[int, int]]) -> defaultdict[int, bytearray]:
    """How often each item was taken, for each producer."""
    found: defaultdict[int, bytearray] = defaultdict(bytearray)
    for number, sent in got:
        marks = found[number]
        if sent >= len(marks):
            marks.extend(bytes(sent + 1 - len(marks)))
        marks[sent] += 1
    return found


def item_of(number: int, sent: int) -> tuple[Any, ...]:
    """An item; some have no room in a ring, and some need pickle."""
    if sent % 97 == 96:
        return number, sent, "x" * 150_000
    return (number, sent, Path("pickled")) if sent % 89 == 88 else (number, sent)


def produce(q: Any, number: int, path: str, batch: int) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sent = 0
    while True:
        following = range(sent, sent + batch)
        if batch > 1:
            q.put_many([item_of(number, i) for i in following])
        else:
            q.put(item_of(number, sent))
        os.write(log, b"".join(RECORD.pack(number, i) for i in following))
        sent += batch


def consume(q: Any, number: int, path: str, batch: int) -> None:
    """Get items until there is None, which is left to others."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    items: list[Any] = [()]
    while items[-1] is not None:
        if batch > 1:
            items = q.get_many(batch)
        elif number % 4:
            items = [q.get()]
        else:
            items = [q.get(True, 60)]
        os.write(log, b"".join(RECORD.pack(*item[:2]) for item in items if item is not None))
    q.put(None)


def kill_at_random(
    works: tuple[Any, Any], q: Any, folder: Path, rng: random.Random, batch: int
) -> None:
    running: list[Any] = []
    for number in range(KILLS + RUNNING):
        work = works[number % 2]
        process = FORK.Process(target=work, args=(q, number, str(folder / f"{number}"), batch))
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


@pytest.mark.parametrize(("maxsize", "batch"), [(0, 1), (50, 1), (0, BATCH), (50, BATCH)])
def test_kills_leave_exact_counts(maxsize: int, batch: int, tmp_path: Path) -> None:
    """Each consumer may have taken what it was getting, and each producer put what it was putting.

    That is one item, or some of a batch: the first of them.
    """
    print(f"FASTMGR_SEED={SEED}")
    with ProbeManager(authkey=KEY) as manager:
        q = with_ring(manager.JoinableQueue(maxsize))
        kill_at_random((produce, consume), q, tmp_path, random.Random(SEED), batch)
        left = []
        while True:
            try:
                left.append(q.get(timeout=1)[:2])
            except queue.Empty:
                break
        missing = 0
        paths = {int(path.name): path for path in tmp_path.iterdir()}
        consumers = [number for number in paths if number % 2]
        got = taken(chain(left, *(notes(paths[number]) for number in consumers)))
        for number in paths.keys() - consumers:
            marks, count = got[number], noted(paths[number])
            assert max(marks, default=1) == 1, "no item is taken twice"
            # The last may have been put, and its producer killed before it could say so.
            assert len(marks) <= count + batch
            missing += max(count, len(marks)) - sum(marks)
        print(f"{missing} items are gone with those who took them")
        assert missing <= batch * len(consumers)
        last: dict[int, int] = {}
        for number, sent in left:
            assert last.get(number, -1) < sent
            last[number] = sent
        # The queue works as before.
        q.put("again")
        assert q.get() == "again"
        assert any(got.values())


@pytest.mark.parametrize("batch", [1, BATCH])
def test_killed_producers_take_nothing_with_them(batch: int, tmp_path: Path) -> None:
    """What a producer has put is there, and of what it was putting a beginning."""
    print(f"FASTMGR_SEED={SEED}")
    puts, gets = tmp_path / "puts", tmp_path / "gets"
    puts.mkdir()
    gets.mkdir()
    with ProbeManager(authkey=KEY) as manager:
        q = with_ring(manager.Queue(50))
        consumers = [
            FORK.Process(target=consume, args=(q, number, str(gets / f"{number}"), batch))
            for number in range(2)
        ]
        for consumer in consumers:
            consumer.start()
        kill_at_random((produce, produce), q, puts, random.Random(SEED), batch)
        # The server may yet have to read what the last ones have sent.
        living = {os.getpid(), *(consumer.pid for consumer in consumers)}
        with fastmgr.Monitor(manager.address, authkey=KEY) as monitor:
            poll(
                lambda: {client.pid for client in monitor.report().clients} == living,
                "the server knows that the producers are dead",
            )
        q.put(None)
        for consumer in consumers:
            consumer.join()
        assert q.get() is None and q.empty()
        got = taken(chain(*map(notes, gets.iterdir())))
    for path in puts.iterdir():
        marks = got[int(path.name)]
        assert marks == b"\1" * len(marks)
        assert 0 <= len(marks) - noted(path) <= batch


# Processes that are stopped


class Tally:
    """The items that somebody has got, for each who put some: as good as their list, and small."""

    def __init__(self) -> None:
        self.sums: dict[int, list[int]] = {}

    def add(self, number: int, sent: int, *_pad: str) -> None:
        sums = self.sums.setdefault(number, [0, 0, 0])
        for power in range(3):
            sums[power] += sent**power


def put_and_get(q: Any, number: int, batch: int, stop: Any, told: Any) -> None:
    tally, sent, pad = Tally(), 0, "x" * 2000
    while not stop.is_set():
        for _ in range(20):
            if batch > 1:
                q.put_many([(number, sent + i, pad) for i in range(batch)])
            else:
                q.put((number, sent, pad))
            sent += batch
            left = batch
            while left:
                items = q.get_many(left) if batch > 1 else [q.get()]
                left -= len(items)
                for item in items:
                    tally.add(*item)
    told.send((number, sent, tally.sums))


def is_kept(q: Any) -> bool:
    """Whether somebody has the ring's slot, and does not let go."""
    found = q._session_of().locate(q)
    if found is None:
        return False
    _, segment, offset, *_ = found
    words = {bytes(memoryview(segment)[offset : offset + 8]) for _ in range(1000)}
    return len(words) == 1 and bool(int.from_bytes(words.pop(), "little") & OWNER_BITS)


@pytest.mark.parametrize("batch", [1, BATCH])
def test_nobody_waits_long_for_one_who_is_stopped(batch: int) -> None:
    """He may have the ring.  Nothing is lost, and nothing comes twice, when he goes on."""
    print(f"FASTMGR_SEED={SEED}")
    rng, tally, sent, held, waits = random.Random(SEED), Tally(), 0, 0, [0.0]
    with ProbeManager(authkey=KEY) as manager:
        q, stop = with_ring(manager.Queue()), FORK.Event()
        ours, theirs = FORK.Pipe(False)
        processes = [
            FORK.Process(target=put_and_get, args=(q, number, batch, stop, theirs))
            for number in (1, 2)
        ]
        for process in processes:
            process.start()
        for _ in range(STOPS or 500):
            time.sleep(rng.random() * 0.01)
            with stopped(rng.choice(processes).pid):
                held += is_kept(q)
                begun = time.monotonic()
                q.put((0, sent))
                sent += 1
                tally.add(*q.get())
                waits.append(time.monotonic() - begun)
            if not STOPS and held == 2:
                break
        stop.set()
        told = [ours.recv() for _ in processes]
        for process in processes:
            process.join()
        print(f"{len(waits) - 1} stops, {held} with the ring; at most {max(waits):.2f} s")
        counts = {0: sent} | {number: count for number, count, _ in told}
        for number, count in counts.items():
            each = [sums[number] for sums in (tally.sums, *(s for *_, s in told)) if number in sums]
            expected = [sum(i**power for i in range(count)) for power in range(3)]
            assert [sum(column) for column in zip(*each, strict=True)] == expected
        assert q.empty() and held and max(waits) < LONGEST
