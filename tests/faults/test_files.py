"""Objects with names in a file that outlives its server."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, in_thread, poll, process_gone

import fastmgr

SIZE = 50_000  # counters in a block: a few fill what the file grows by


pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))

FORK: Any = multiprocessing.get_context("fork")
#: What a call says when the server is gone.
GONE = (EOFError, ConnectionError)


def started(path: Path) -> fastmgr.SyncManager:
    manager = ProbeManager(authkey=KEY, arena=str(path))
    manager.start()
    return manager


def count_until_it_is_gone(manager: Any, number: int, pipe: Connection) -> None:
    """Count in every way there is; how often a call returned."""
    hits = manager.Counter(name="hits")
    words = manager.Counters(["a", "b", "c"], name="words")
    items = manager.Array("q", [0] * 4, name="items")
    value = manager.Value("q", 0, name="value")
    own = manager.Value("q", None, name=f"value of {number}")
    returned = {"hits": 0, "words": 0, "items": 0, "value": 0, "own": 0, "made": 0}
    pipe.send("counts")
    try:
        while True:
            hits.incr()
            returned["hits"] += 1
            words.incr("abc"[number])
            returned["words"] += 1
            items.incr(number)
            returned["items"] += 1
            value.incr()
            returned["value"] += 1
            own.set(returned["own"] + 1)
            returned["own"] += 1
            if returned["hits"] % 2000 == 1 and returned["made"] < 6:
                block = manager.Counters(SIZE, name=f"block {number}.{returned['made']}")
                block.incr(-1, 7)
                returned["made"] += 1
    except GONE:
        pass
    pipe.send(returned)


def kill_while_they_count(manager: Any, chance: random.Random) -> list[dict[str, int]]:
    clients = []
    told = []
    try:
        for number in range(3):
            here, there = FORK.Pipe()
            process = FORK.Process(target=count_until_it_is_gone, args=(manager, number, there))
            process.start()
            there.close()
            clients.append((process, here))
        for _process, here in clients:
            assert here.poll(DEADLINE) and here.recv() == "counts"
        hits = manager.Counter(name="hits")
        some = hits.get() + chance.randrange(1, 20_000)
        poll(lambda: hits.get() > some, "they count")
        os.kill(manager._process.pid, signal.SIGKILL)
        for process, here in clients:
            assert here.poll(DEADLINE), "a client has not heard that the server is gone"
            told.append(here.recv())
            process.join(DEADLINE)
            assert process.exitcode == 0
    finally:
        for process, here in clients:
            process.kill()
            process.join(DEADLINE)
            here.close()
        in_thread(manager.shutdown)
    return told


def test_what_has_a_name_outlives_a_killed_server(tmp_path: Path) -> None:
    """Every call that returned is there, when the next server starts."""
    path = tmp_path / "arena"
    print(f"FASTMGR_SEED={SEED}")
    chance = random.Random(SEED)
    hits = words = items = value = 0
    made = [0, 0, 0]
    own: list[int | None] = [None, None, None]
    for _ in range(4):
        told = kill_while_they_count(started(path), chance)
        hits += sum(one["hits"] for one in told)
        words += sum(one["words"] for one in told)
        items += sum(one["items"] for one in told)
        value += sum(one["value"] for one in told)
        made = [max(a, one["made"]) for a, one in zip(made, told, strict=True)]
        with started(path) as manager:
            # What returned, and no more: who found no server has not counted.
            assert manager.Counter(name="hits").get() == hits
            assert sum(manager.Counters(["a", "b", "c"], name="words").snapshot()) == words
            assert sum(manager.Array("q", [0] * 4, name="items")[:]) == items
            assert manager.Value("q", 0, name="value").get() == value
            for number, one in enumerate(told):
                own[number] = one["own"] or own[number]  # that of before, if it was killed first
                assert manager.Value("q", 0, name=f"value of {number}").get() == own[number]
                for i in range(made[number]):
                    block = manager.Counters(SIZE, name=f"block {number}.{i}")
                    assert len(block) == SIZE and block[-1] % 7 == 0 < block[-1]
            assert manager.Counter(name="new").get() == 0


def test_a_second_server_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with started(path) as first:
        hits = first.Counter(name="hits")
        hits.incr()
        # What other processes do with the file does not lift the lock.
        assert path.read_bytes()
        second = ProbeManager(authkey=KEY, arena=str(path))
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                second.start()
        assert not second._process.is_alive()
        assert hits.incr() == 2
        os.kill(first._process.pid, signal.SIGKILL)
        poll(lambda: process_gone(first._process.pid), "it is dead")
        second.start()
        with second:
            assert second.Counter(name="hits").incr() == 3
        with pytest.raises(GONE):
            hits.incr()


EXTENT = 1 << 20


def with_bytes(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + data + whole[at + len(data) :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"what is not ours", id="something else"),
        pytest.param(lambda _: random.Random(1).randbytes(EXTENT), id="noise"),
        pytest.param(lambda whole: whole[:200], id="cut in a record"),
        pytest.param(lambda whole: whole[:64], id="cut to its header"),
        pytest.param(with_bytes(0, b"FMARENA9"), id="other first bytes"),
        pytest.param(with_bytes(8, struct.pack("<Q", EXTENT + 64)), id="ends beyond the end"),
        pytest.param(with_bytes(8, struct.pack("<Q", 2**64 - 64)), id="ends nowhere"),
        pytest.param(with_bytes(8, struct.pack("<Q", 65)), id="ends between lines"),
        pytest.param(with_bytes(8, struct.pack("<Q", 0)), id="ends before it begins"),
        pytest.param(with_bytes(64, struct.pack("<Q", 99)), id="a kind that is none"),
        pytest.param(with_bytes(72, struct.pack("<Q", 2**63)), id="a long name"),
        pytest.param(with_bytes(72, struct.pack("<Q", 2**64 - 1)), id="a very long name"),
        pytest.param(with_bytes(88, struct.pack("<Q", 4)), id="a small state"),
        pytest.param(with_bytes(88, struct.pack("<Q", EXTENT)), id="a large state"),
        pytest.param(with_bytes(128, b"\xff\xfe"), id="a name that is no text"),
        pytest.param(with_bytes(192, b"][[["), id="details that are none"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "arena"
    with started(path) as manager:
        manager.Counter(5, name="hits")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    manager = ProbeManager(authkey=KEY, arena=str(path))
    with pytest.raises(ValueError, match="damaged"):
        manager.start()
    assert not manager._process.is_alive()
    assert path.read_bytes() == damaged  # whoever can mend it finds it as it was


@pytest.mark.parametrize("size", [4096, EXTENT - 1, EXTENT + 4096])
def test_room_that_was_not_made_whole_is_made_so(tmp_path: Path, size: int) -> None:
    """All records are there; behind them the file ends where an extent does not."""
    path = tmp_path / "arena"
    with started(path) as manager:
        manager.Counter(5, name="hits")
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 5
        manager.Array("d", [0.5] * (EXTENT // 8), name="much")
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 5
        assert len(manager.Array("d", (), name="much")) == EXTENT // 8


def test_a_server_that_is_killed_while_it_makes_the_file(tmp_path: Path) -> None:
    """It has room, and nothing in it."""
    path = tmp_path / "arena"
    path.write_bytes(bytes(EXTENT))
    with started(path) as manager:
        assert manager.Counter(name="hits").incr() == 1
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 1
