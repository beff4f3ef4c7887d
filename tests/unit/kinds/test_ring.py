"""The ring protocol: what goes in comes out, once and in order, whoever is killed meanwhile."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from model.compiled import compiled
from support import TESTS

pytestmark = pytest.mark.timeout(120)

rings: Any = compiled("rings", TESTS / "support")
turns: Any = compiled("traced_turns")
ME, OTHER = 1 << 24, 2 << 24
KILLS = int(os.environ.get("FASTMGR_RING_KILLS", "24"))


def new(capacity: int, flags: int = 0) -> Any:
    memory = rings.Memory(bytearray(rings.HEAD + capacity))
    memory.begin(0, flags)
    return memory


def test_items_come_out_in_order_at_every_place_of_a_ring() -> None:
    ring = new(4096)
    put: list[bytes] = []
    for i in range(3000):
        item = bytes(random.Random(i).randbytes(i % 200))
        if ring.put(ME, item) == rings.DONE:
            put.append(item)
        while len(put) > i % 17:
            assert ring.get(OTHER) == put.pop(0)
    assert ring.peek() == (len(put), 0)


def test_what_does_not_fit_is_the_servers() -> None:
    ring = new(256)
    assert ring.put(ME, bytes(33)) == rings.ASK
    assert [ring.put(ME, bytes(24)) for _ in range(9)] == [rings.DONE] * 8 + [rings.CROWDED]
    assert ring.get(ME, 23) == rings.LARGER and ring.get(ME, 24) == bytes(24)
    assert ring.put(ME, b"", 8) == rings.DONE and ring.put(ME, b"", 8) == rings.FULL


def test_an_empty_ring_begins_at_its_beginning() -> None:
    ring = new(1 << 20)
    for _ in range(10_000):
        assert ring.put(ME, b"item") == rings.DONE and ring.get(ME) == b"item"
    assert ring.state()[1:3] == (0, 0) and ring.state()[4] == 16


def test_an_empty_ring_gives_its_memory_back() -> None:
    with mmap.mmap(-1, rings.HEAD + (1 << 20)) as shared:
        ring = rings.Memory(shared)
        ring.begin()
        for _ in range(200):
            assert ring.put(ME, b"\xff" * 1000) == rings.DONE
        for _ in range(200):
            assert ring.get(ME, 1000) == b"\xff" * 1000
        ring.shrink(ME)
        # All but the first page, and a part of the last.
        assert not any(shared[mmap.PAGESIZE : 200_000 // mmap.PAGESIZE * mmap.PAGESIZE])
        assert ring.state()[4] == 0
        assert ring.put(ME, b"again") == rings.DONE and ring.get(ME) == b"again"
        del ring


def test_flags_say_what_the_server_does() -> None:
    ring = new(4096, rings.FLAG_PUT)
    assert ring.put(ME, b"a") == rings.ASK and ring.get(ME) == rings.EMPTY
    assert new(4096, rings.FLAG_NONE).get(ME) == rings.ASK
    ring = new(4096, rings.FLAG_GET)
    assert ring.put(ME, b"a") == rings.DONE and ring.get(ME) == rings.ASK
    assert new(4096).get(ME) == rings.EMPTY


def test_many_items_obey_the_flags_and_the_limit() -> None:
    for flags, put, got in (
        (0, (rings.DONE, 3), (rings.DONE, 3)),
        (rings.FLAG_PUT, (rings.ASK, 0), (rings.EMPTY, 0)),
        (rings.FLAG_GET, (rings.DONE, 3), (rings.ASK, 0)),
        (rings.FLAG_NONE, (rings.DONE, 3), (rings.ASK, 0)),
    ):
        ring = new(4096, flags)
        assert ring.put_many(ME, records(b"a", b"b", b"c"), 3) == put
        assert ring.state()[3] == put[1]
        assert ring.get_many(ME, 4) == got
    assert ring.get_many(ME, 3) == (rings.DONE, 3)
    ring = new(4096)
    assert ring.put_many(ME, records(b"a", b"b", b"c"), 3, 2) == (rings.DONE, 2)
    assert ring.put_many(ME, records(b"c"), 1, 2) == (rings.FULL, 0)


def test_who_shrinks_leaves_items_and_the_first_page() -> None:
    with mmap.mmap(-1, rings.HEAD + (1 << 20)) as shared:
        ring = rings.Memory(shared)
        ring.begin()
        items = [b"\xff" * 1000] * 100
        assert all(ring.put(ME, item) == rings.DONE for item in items)
        ring.shrink(OTHER)
        assert ring.state()[4] > 100_000
        assert all(ring.get(OTHER, 1000) == item for item in items)
        ring.shrink(OTHER)
        assert ring.state()[4] == 0 and shared[rings.HEAD + 8 : mmap.PAGESIZE].count(0xFF) > 3000
        del ring


#: Of an empty ring of 64 bytes, or one with an item of 8 bytes: how many, where, bytes.
INSANE = [
    *((1 << 8, 64, 16), (1 << 8, 4, 16), (1 << 8, 0, 72), (1 << 8, 0, 12), (0, 0, 16)),
    *((1 << 8, 0, 0), (3 << 8, 0, 16)),
]


@pytest.mark.parametrize("state", INSANE)
def test_a_state_that_cannot_be_is_nobodys(state: tuple[int, int, int]) -> None:
    data = bytearray(rings.HEAD + 64)
    ring = rings.Memory(data)
    ring.begin()
    for at in (64, 128):
        struct.pack_into("<3Q", data, at, *state)
    outcomes = ring.put(ME, b""), ring.get(ME), ring.task_done(ME)
    assert {*outcomes} <= {rings.SPOILED, rings.EMPTY} and outcomes[0] == rings.SPOILED
    assert ring.slot & rings.OWNER_BITS == 0 and ring.end() == []


def test_an_item_longer_than_all_items_is_none() -> None:
    data = bytearray(rings.HEAD + 4096)
    ring = rings.Memory(data)
    ring.begin()
    assert ring.put(ME, bytes(8)) == rings.DONE
    struct.pack_into("<Q", data, rings.HEAD, 16)
    assert ring.get(ME) == rings.SPOILED and ring.state()[2] == 16


def test_the_end_of_a_ring_keeps_what_holds() -> None:
    for count in range(4):
        ring = new(4096)
        for _ in range(count):
            assert ring.put(ME, b"item") == rings.DONE
        ring.end()
        assert ring.items() == [b"item"] * count


def test_tasks_are_counted() -> None:
    ring = new(4096, rings.FLAG_DONE)
    assert ring.task_done(ME) == rings.ASK
    assert [ring.put(ME, b"") for _ in range(2)] == [rings.DONE] * 2
    assert [ring.task_done(ME) for _ in range(2)] == [rings.DONE, rings.ASK]  # somebody joins
    ring = new(4096)
    ring.put(ME, b"")
    assert [ring.task_done(ME) for _ in range(2)] == [rings.DONE, rings.ASK]


def test_nothing_has_happened_before_the_commit() -> None:
    ring = new(4096)
    ring.put(ME, b"first")
    for step in ("pop", "push"):
        turn = rings.Step(ring, OTHER)
        assert turn.take() == rings.DONE
        assert turn.pop() == b"first" if step == "pop" else turn.push(b"second")
        turn.write()
        assert ring.put(ME, b"third") == rings.BUSY and ring.get(ME) == rings.BUSY
        assert ring.peek() == (1, 0)
        if step == "pop":
            turn.let_go()
    assert ring.end() == [b"first"]
    assert not turn.commit()
    assert ring.put(ME, b"third") == rings.OVER and ring.get(ME) == rings.OVER


ITEMS = [b"first", b"", b"third"]


def records(*items: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(item)) + item for item in items)


#: What one process does, with which bytes, of how many items.
OPERATIONS: dict[str, tuple[bytes, int]] = {
    "put": (b"an item of some bytes", 0),
    "get": (b"", 0),
    "put_many": (records(b"one", b"", b"another of some bytes"), 3),
    "get_many": (b"", 2),
    "task_done": (b"", 0),
    "shrink": (b"", 0),
}


def prepared(name: str, fillers: int) -> bytearray:
    """The memory of a ring with three items, behind the place of others; to be shrunk with none."""
    shrinks = name == "shrink"
    data = bytearray(rings.HEAD + (1 << 17 if shrinks else 256))
    ring = rings.Memory(data)
    ring.begin()
    first, then = ([bytes(1000)] * 100, []) if shrinks else ([bytes(24)] * fillers, ITEMS)
    assert all(ring.put(ME, item) == rings.DONE for item in first)
    assert all(ring.get(ME, 1000) == item for item in first[1:])
    assert all(ring.put(ME, item) == rings.DONE for item in then)
    assert ring.get(ME, 1000) == first[0]
    return data


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("fillers", [1, 7])
def test_who_dies_at_any_step_has_done_all_or_nothing(name: str, fillers: int) -> None:
    """It is the commit that does it.  Before that step the slot is the dead one's, if anybody's."""
    begun, enough = prepared(name, fillers), 10_000

    def dies_after(steps: int) -> tuple[int, int, list[Any]]:
        data = bytearray(begun)
        left = turns.operate(data, name, OTHER, *OPERATIONS[name], steps)
        ring = rings.Memory(data)
        about, _, used, unfinished, peak = ring.state()
        return left, ring.slot & rings.OWNER_BITS, [about, used, unfinished, peak, ring.items()]

    _, _, before = dies_after(0)
    left, owner, after = dies_after(enough)
    assert owner == 0 and before != after
    for steps in range(1, enough - left):
        assert dies_after(steps) == (0, OTHER, before)


def test_memory_that_is_no_ring_is_nobodys() -> None:
    ring = rings.Memory(bytearray(4096))
    assert (ring.put(ME, b""), ring.get(ME), ring.task_done(ME), ring.peek()) == (rings.OVER,) * 4
    assert ring.slot == 0


# What a client may have written there

OUTCOMES = {
    rings.DONE, rings.BUSY, rings.OVER, rings.SPOILED, rings.ASK, rings.FULL, rings.EMPTY,
    rings.LARGER, rings.CROWDED,
}  # fmt: skip
NASTY = st.sampled_from([0, 1, 7, 8, 16, 64, 255, 256, 4096, 2**32, 2**63, 2**64 - 8, 2**64 - 1])
WORDS = st.lists(st.one_of(NASTY, st.integers(0, 2**64 - 1)), min_size=5, max_size=5)


@given(st.sampled_from([64, 128, 136, 4096]), WORDS, WORDS, st.binary(max_size=200), st.booleans())
@example(64, [256, 56, 64, 0, 0], [0] * 5, b"\xff" * 64, False)
@settings(max_examples=300, deadline=None)
def test_nonsense_leads_nobody_out_of_the_ring(
    capacity: int, first: list[int], second: list[int], data: bytes, side: bool
) -> None:
    guard = b"\xa5" * 4096
    buffer = bytearray(guard + bytes(rings.HEAD + capacity) + guard)
    inner = memoryview(buffer)[len(guard) : -len(guard)]
    ring = rings.Memory(inner)
    for place, words in ((64, first), (128, second)):
        struct.pack_into("<5Q", inner, place, *words)
    data = data[:capacity]
    inner[rings.HEAD : rings.HEAD + len(data)] = data
    ring.slot = rings.IS_PLACED | (rings.IS_SIDE if side else 0)
    for _ in range(20):
        got = ring.get(ME)
        assert isinstance(got, bytes) or got in OUTCOMES
        assert ring.put(ME, b"item") in OUTCOMES
        assert ring.task_done(OTHER) in OUTCOMES
    assert len(ring.end()) <= capacity // 8
    assert buffer.startswith(guard) and buffer.endswith(guard)


# Processes that are killed

RECORD = struct.Struct("<II")


class Log:
    """Pairs that one process notes, which outlive it: how many, then each, in a word each."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 1 << 21)).cast("Q")

    def add(self, item: bytes) -> None:
        # In single stores: what is written byte by byte may be half written at its death.
        self.words[self.words[0] + 1] = int.from_bytes(item, "little")
        self.words[0] += 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for word in self.words[1 : self.words[0] + 1]:
            number, sent = RECORD.unpack(word.to_bytes(8, "little"))
            yield number, sent


def work(shared: mmap.mmap, number: int, log: Log, puts: bool) -> None:
    ring = rings.Memory(shared)
    sent = 0
    while sent < 200_000:
        item = RECORD.pack(number, sent)
        got = ring.put(number << 24, item) if puts else ring.get(number << 24)
        if got == rings.DONE or isinstance(got, bytes):
            sent += 1
            log.add(got if isinstance(got, bytes) else item)
        else:
            os.sched_yield()


def kill_at_random(shared: mmap.mmap, ring: Any) -> tuple[list[Log], list[Log]]:
    """Run producers and consumers, and kill them one after the other; what each has noted."""
    context = multiprocessing.get_context("fork")
    logs: tuple[list[Log], list[Log]] = ([], [])
    running: list[Any] = []
    for number in range(1, KILLS + 1):
        log, puts = Log(), number % 2 == 1
        logs[not puts].append(log)
        worker = context.Process(target=work, args=(shared, number, log, puts))
        worker.start()
        running.append((number, worker))
        if len(running) == 4 or number > KILLS - 3:
            time.sleep(random.random() * 0.02)
            killed, worker = running.pop(random.randrange(len(running)))
            worker.kill()
            worker.join()
            if ring.slot & rings.OWNER_BITS == killed << 24:  # it is dead: nobody else changes it
                ring.slot &= ~rings.OWNER_BITS
    for _, worker in running:
        worker.kill()
        worker.join()
    return logs


def test_kills_leave_exact_counts() -> None:
    with mmap.mmap(-1, rings.HEAD + (1 << 16)) as shared:
        ring = rings.Memory(shared)
        ring.begin()
        producers, consumers = kill_at_random(shared, ring)
        ring.slot &= ~rings.OWNER_BITS
        unfinished = ring.state()[3]
        left = [RECORD.unpack(item) for item in ring.end()]
        put = [pair for log in producers for pair in log]
        got = [pair for log in consumers for pair in log] + left
        assert len(got) == len(set(got))
        # A producer that is killed may have put one more than it has noted, and a consumer taken
        # one more.
        assert len(put) <= unfinished <= len(put) + len(producers)
        assert unfinished - len(consumers) <= len(got) <= unfinished
        for log in [*consumers, iter(left)]:
            last: dict[int, int] = {}
            for number, sent in log:
                assert last.get(number, -1) < sent
                last[number] = sent
        del ring
