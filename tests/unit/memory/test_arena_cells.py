"""Cells: which objects have one, where it lies, and that no two overlap."""

from __future__ import annotations

import ctypes
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import ProbeManager
from support.frames import HEADER, OP_ATTACH, OP_CREATE, OP_RETURN
from support.memory import (
    ARRAY,
    COUNTER,
    COUNTERS,
    EVENT,
    LARGE,
    LINE,
    LOCK,
    PAGE,
    RLOCK,
    SEGMENT_SIZE,
    SEMAPHORE,
    VALUE,
)
from support.peers import PassedPeer

from fastmgr.memory.arena import Arena, Cell
from fastmgr.memory.segments import map_segment
from fastmgr.wire import codec

pytestmark = pytest.mark.timeout(90)


def test_cells_of_each_kind(peer: PassedPeer) -> None:
    for (typeid, *args), kind, size, about in [
        (("Lock",), LOCK, 8, None),
        (("RLock",), RLOCK, 16, None),
        (("Semaphore", 3), SEMAPHORE, 24, None),
        (("Semaphore", 1000), SEMAPHORE, 512, None),
        (("BoundedSemaphore", 2), SEMAPHORE, 16, None),
        (("Event",), EVENT, 8, None),
        (("Counter",), COUNTER, 8, None),
        (("Counters", 5), COUNTERS, 40, (None, ())),
        (("Counters", ["a", "b"]), COUNTERS, 16, (("a", "b"), ())),
        (("Value", "i", {}), VALUE, 8, None),
        (("Array", "h", [1, 2, 3]), ARRAY, 6, "h"),
    ]:
        found = peer.locate(peer.create(typeid, *args))
        assert (found[0], *found[3:]) == (kind, size, about)
        number, offset = found[1:3]
        assert offset % LINE == 0
        with memoryview(peer.segment(number)) as segment:
            assert segment.nbytes == SEGMENT_SIZE
            if kind == ARRAY:
                assert segment[offset : offset + size].cast("h").tolist() == [1, 2, 3]


def test_what_has_no_cell(peer: PassedPeer) -> None:
    for typeid, *args in [
        ("Condition",), ("Barrier", 2),
        ("Semaphore", 0), ("Array", "i", []), ("Sleeper",),
    ]:  # fmt: skip
        assert peer.locate(peer.create(typeid, *args)) is None
    for handle in (0, 1, 2**63, 2**64 - 1):
        assert peer.locate(handle) is None
    gone = peer.create("Counter")
    peer.drop(gone)
    assert peer.locate(gone) is None


def test_cells_of_a_pipelining_peer(peer: PassedPeer) -> None:
    """The descriptor arrives beside the reply it belongs to, whatever was asked before it."""
    handle = peer.create("Counter", 9)
    _, number, offset, _, _ = peer.locate(handle)
    body = b"".join(map(codec.dumps, ("get", (), None)))
    for _ in range(50):
        peer.send(1, body, handle)
    peer.send(OP_ATTACH, handle=number)
    replies = [peer.recv() for _ in range(50)]
    assert [reply.payload for reply in replies] == [9] * 50
    data, passed, _, _ = socket.recv_fds(peer.sock, HEADER.size, 1)
    where = codec.loads(peer._read(HEADER.unpack(data)[0]))
    segment = map_segment(number, passed[0], *where)
    assert memoryview(segment)[offset : offset + 8].cast("q")[0] == 9


# What lies where


def test_a_cell_that_was_dropped_is_zero_and_used_again(peer: PassedPeer) -> None:
    handle = peer.create("Counter", -1)
    _, number, offset, size, _ = peer.locate(handle)
    with memoryview(peer.segment(number)) as segment:
        line = segment[offset : offset + LINE]
        assert line[:size] == b"\xff" * size
        line[size:] = b"\xff" * (LINE - size)  # also what nobody was given
        peer.drop(handle)
        assert peer.control("dummy").op == OP_RETURN
        assert line == bytes(LINE)
        again = peer.create("Lock")
        assert peer.locate(again)[1:3] == (number, offset)
        assert line == bytes(LINE)
        line.release()


creations = st.one_of(
    st.just(("Counter", 7)),
    st.just(("Lock",)),
    st.integers(1, 65).map(lambda n: ("Semaphore", n)),
    st.sampled_from([1, 7, 8, 9, 63, 64, 65, 500, 512, 513, 4000]).map(lambda n: ("Counters", n)),
    st.sampled_from([1, 64, 4095, 4096, 4097, 131072, 131073, LARGE - 1, LARGE, LARGE + 1]).map(
        lambda n: ("Array", "b", [1] * n)
    ),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(creations, st.booleans()), max_size=20))
def test_cells_do_not_overlap(
    manager: ProbeManager, said: list[tuple[tuple[Any, ...], bool]]
) -> None:
    with PassedPeer(manager.address) as peer:
        alive: list[tuple[int, int, int, int]] = []  # segment, from, to, handle
        segments: dict[int, Any] = {}
        for (typeid, *args), drops in said:
            handle = peer.create(typeid, *args)
            kind, number, offset, size, _ = peer.locate(handle)
            if number not in segments:
                segments[number] = memoryview(peer.segment(number))
            segment = segments[number]
            assert offset % LINE == 0 and offset + size <= segment.nbytes
            for other, start, end, _ in alive:
                assert other != number or end <= offset or offset + size <= start
            alive.append((number, offset, offset + size, handle))
            begun = segment[offset : offset + size].tobytes()
            if kind == ARRAY:
                assert begun == bytes([1]) * size
            else:
                assert begun == (b"\7" if kind == COUNTER else b"\0") + bytes(size - 1)
            segment[offset : offset + size] = bytes([len(alive)]) * size
            if drops:
                peer.drop(alive.pop(len(alive) // 2)[3])
        for number, start, end, _ in alive:
            found = segments[number][start:end]
            assert found == found[:1].tobytes() * len(found)
        assert peer.control("dummy").op == OP_RETURN


def test_a_cell_lies_in_its_segment() -> None:
    segment = Arena().new(PAGE)
    for offset, size in [(PAGE - 8, 16), (PAGE + 8, 8), (2**64 - 8, 8), (0, PAGE + 1)]:
        with pytest.raises(OSError, match=r"do not lie in a segment"):
            Cell(size, segment, offset)
    Cell(8, segment, PAGE - 8)


def test_the_memory_is_the_one_both_work_on(manager: ProbeManager) -> None:
    array = manager.Array("q", [1, 2])
    with memoryview(array) as items:
        address = ctypes.addressof(ctypes.c_char.from_buffer(items.cast("B")))
    ctypes.c_int64.from_address(address + 8).value = 77
    assert array._callmethod("__getitem__", (1,)) == 77


def test_an_anonymous_create_has_a_cell_too(peer: PassedPeer) -> None:
    reply = peer.ask(OP_CREATE, "Counter", (4,), None)
    assert peer.locate(reply.handle)[0] == COUNTER
