"""Memory that the server shares: who maps it, what lies where, and what becomes of it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    RawPeer,
    Script,
    call_in_subprocess,
    connected,
    in_thread,
    kill,
    locally,
    mapped,
    poll,
    process_gone,
    rss_bytes,
    say,
    settle,
)
from support.frames import HEADER, OP_CREATE, OP_RETURN
from support.peers import PassedPeer

from fastmgr import oneway
from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counters
from fastmgr.managers import CounterProxy, RemoteError, Token, retire_sessions
from fastmgr.memory.arena import Arena
from fastmgr.memory.cells import Cell, settle as settle_in
from fastmgr.memory.segments import map_segment
from fastmgr.wire import codec

pytestmark = pytest.mark.timeout(90)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# As in link/stream.pxd and in the .pxd files of memory.
OP_LOCATE, OP_ATTACH = 7, 8
LOCK, RLOCK, SEMAPHORE, EVENT, COUNTER, COUNTERS, VALUE, ARRAY = range(1, 9)
LINE, PAGE, SEGMENT_SIZE, LARGE = 64, 4096, 1 << 20, 1 << 18


class Leaver:
    """A user's class whose method ends its connection."""

    def leave(self, name: str) -> None:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        for conn in list(server._engine.conns.values()):
            if conn.name == name:
                conn.close()


class ArenaManager(ProbeManager):
    """With what ends connections."""


ArenaManager.register("Leaver", Leaver)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[ProbeManager]:
    with ArenaManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: Any) -> Any:
    """The module's manager; a test that counts objects has one of its own."""
    return shared_manager


@pytest.fixture
def own_manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def peer(manager: ProbeManager) -> Iterator[PassedPeer]:
    with PassedPeer(manager.address) as peer:
        yield peer


def held(pid: int | str = "self") -> int:
    """How many descriptors of pieces of an arena a process has."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += "memfd:fastmgr" in os.readlink(f"/proc/{pid}/fd/{name}")
    return count


# Who maps it


def test_calls_need_no_server(manager: ProbeManager) -> None:
    counter = manager.Counter(1)
    assert counter.incr() == 2
    assert locally(manager, lambda: [counter.incr() for _ in range(1000)][-1]) == 1002
    assert counter._callmethod("get") == 1002


def test_one_way_calls_of_one_thread_send_no_other_to_the_server(manager: ProbeManager) -> None:
    counter, items = manager.Counter(1), manager.list()
    assert counter.incr() == 2
    oneway(items).append(1)
    assert locally(manager, lambda: (counter.incr(), repr(counter))) == (
        3,
        "<CounterProxy 3, typeid 'Counter'>",
    )
    assert len(items) == 1


def report_maps(address: Any, ident: str, off: bool) -> list[int]:
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    counter = CounterProxy(Token("Counter", address, ident), "pickle", authkey=KEY)
    return [counter.incr(), counter.get(), len(mapped())]


@on_linux
def test_the_variable_keeps_a_process_from_mapping(manager: ProbeManager) -> None:
    counter = manager.Counter()
    counter.incr()
    ident = counter._token.id
    assert call_in_subprocess(report_maps, manager.address, ident, True) == [2, 2, 0]
    assert call_in_subprocess(report_maps, manager.address, ident, False) == [3, 3, 2]
    assert counter.get() == 3


@on_linux
def test_nobody_maps_over_tcp() -> None:
    with ProbeManager(("127.0.0.1", 0), KEY) as manager:
        counter, lock = manager.Counter(), manager.Lock()
        before = len(mapped())
        assert (counter.incr(), counter.get(), lock.acquire(), lock.acquire(False)) == (
            1, 1, True, False,
        )  # fmt: skip
        assert len(mapped()) == before
        with PassedPeer(tuple(manager.address)) as peer:
            handle = peer.create("Counter")
            assert peer.locate(handle) is False
            assert [peer.attach(number) for number in (0, 1)] == [(None, None)] * 2


@on_linux
def test_a_manager_may_share_nothing() -> None:
    gc.collect()
    before, open_before = mapped(), held()
    manager = ProbeManager(authkey=KEY, arena=False)
    manager.start()
    try:
        counter, array = manager.Counter(), manager.Array("i", [1, 2])
        assert (counter.incr(), array[1], len(array)) == (1, 2, 2)
        with pytest.raises(BufferError):
            memoryview(array)
        assert len(mapped()) == len(before)
        # As the child of a fork it may still have of what we had mapped before, and no more.
        assert set(mapped(manager._process.pid)) <= set(before)
        assert held(manager._process.pid) <= open_before
    finally:
        manager.shutdown()


def test_two_managers_at_once(manager: ProbeManager) -> None:
    with ProbeManager(authkey=KEY) as other:
        ours, theirs = manager.Counter(10), other.Counter(20)
        lock, rlock = manager.RLock(), other.RLock()
        for _ in range(5):
            ours.incr()
            assert lock.acquire() and rlock.acquire()
            theirs.decr()
        assert (ours.get(), theirs.get()) == (15, 15)
        assert (ours._callmethod("get"), theirs._callmethod("get")) == (15, 15)
        for held_lock in (lock, rlock):
            for _ in range(5):
                held_lock.release()
            with pytest.raises(RuntimeError):
                held_lock.release()
    assert ours.incr() == 16
    with pytest.raises((OSError, EOFError)):
        theirs.incr()


# The end of the server


@pytest.mark.parametrize("how", ["shutdown", "terminate", "kill"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_server_that_is_gone_is_missed(how: str, place: str, tmp_path: Path) -> None:
    arena = str(tmp_path / "arena") if place == "file" else True
    manager = ProbeManager(authkey=KEY, arena=arena)
    manager.start()
    counter, value = manager.Counter(name="c"), manager.Value("i", 1, name="v")
    counters, array = manager.Counters(2, name="cs"), manager.Array("i", [1, 2], name="a")
    lock, event, semaphore = manager.Lock(), manager.Event(), manager.Semaphore(2)
    calls: list[Callable[[], Any]] = [
        counter.incr, counter.get, lambda: counter.exchange(5), value.get, value.incr,
        lambda: value.set(3), lambda: counters[0], lambda: counters.incr(1), counters.snapshot,
        lambda: array[0], lambda: array.incr(0), lambda: array.__setitem__(0, 1), array.__len__,
        lock.acquire, lambda: lock.acquire(False), lock.locked, lock.release, event.is_set,
        semaphore.acquire, semaphore.release,
    ]  # fmt: skip
    for call in calls:
        call()
    if how == "shutdown":
        manager.shutdown()
    else:
        getattr(manager._process, how)()
        manager._process.join(DEADLINE)
    for call in calls:
        with pytest.raises((OSError, EOFError)):
            call()
    retire_sessions(manager.address)
    manager.shutdown()


def test_a_lost_session_takes_its_cells_along() -> None:
    """What the server drops with the last connection of a process is not to be worked on."""
    with ArenaManager(authkey=KEY) as manager, PassedPeer(manager.address) as peer:
        counter, leaver = manager.Counter(5), manager.Leaver()
        assert counter.incr() == 6
        leaver.leave(multiprocessing.current_process().name)
        poll(lambda: peer.control("number_of_objects").payload == 0, "the counter is dropped")
        handle = peer.create("Counter", 100)
        peer.locate(handle)
        # The server may not have closed the connection yet when the call is sent.
        with pytest.raises((RemoteError, ConnectionError, EOFError)):
            counter.incr()
        assert peer.method(handle, "get").payload == 100


# Frames by hand


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
        ("list",), ("dict",), ("Namespace",), ("Queue",), ("Condition",), ("Barrier", 2),
        ("Semaphore", 0), ("Array", "i", []), ("Sleeper",),
    ]:  # fmt: skip
        assert peer.locate(peer.create(typeid, *args)) is None
    for handle in (0, 1, 2**63, 2**64 - 1):
        assert peer.locate(handle) is None
    gone = peer.create("Counter")
    peer.drop(gone)
    assert peer.locate(gone) is None


def test_segments_that_do_not_exist(peer: PassedPeer) -> None:
    for number in (1000, 2**31, 2**63, 2**64 - 1):
        assert peer.attach(number) == (None, None)
    peer.send(OP_ATTACH, b"with a body", 1000)
    assert peer.recv().payload is None
    assert peer.locate(peer.create("Counter"))


@on_linux
def test_a_segment_cannot_change_its_size(peer: PassedPeer) -> None:
    _, number, *_ = peer.locate(peer.create("Counter"))
    for segment in (0, number):
        _, fd = peer.attach(segment)
        assert fd is not None
        try:
            for size in (0, os.fstat(fd).st_size * 2):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
        finally:
            os.close(fd)


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


def filled(pid: int) -> int:
    """The bytes of memory in the segments that a process has descriptors of."""
    total = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(FileNotFoundError):
            if "memfd:fastmgr" in os.readlink(path):
                total += os.stat(path).st_blocks * 512
    return total


@on_linux
@pytest.mark.parametrize("size", [LARGE, LARGE + 1, SEGMENT_SIZE, 3 * SEGMENT_SIZE + 1])
def test_memory_of_large_arrays_goes_with_them(own_manager: ProbeManager, size: int) -> None:
    server = own_manager._process.pid
    own_manager.Counter().incr()
    kept = own_manager.Array("B", b"k" * size)
    assert kept[0] == ord("k")
    gc.collect()
    before = (len(mapped()), len(mapped(server)), held(server), held(), filled(server))
    arrays = [own_manager.Array("B", bytes(size)) for _ in range(9)]
    for number, array in enumerate(arrays):
        memoryview(array)[:] = bytes([number]) * size
    assert [(array[0], array[-1]) for array in arrays] == [(i, i) for i in range(9)]
    assert filled(server) >= before[4] + 9 * size
    # All of them lie in the segment that is there.
    assert (len(mapped()), len(mapped(server)), held(server), held()) == before[:4]
    del array, arrays[::2]
    settle(own_manager, 5)
    assert filled(server) <= before[4] + 4 * (size + PAGE)
    again = [own_manager.Counters(size // 8) for _ in range(5)]
    assert [set(counters.snapshot()) for counters in again] == [{0}] * 5
    assert [(array[0], array[-1]) for array in arrays] == [(i, i) for i in (1, 3, 5, 7)]
    arrays.clear()
    again.clear()
    settle(own_manager, 1)
    assert kept[0] == kept[-1] == ord("k")
    after = (len(mapped()), len(mapped(server)), held(server), held(), filled(server))
    assert after == before


def limit_descriptors(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def use_large_objects_with_few_descriptors() -> Any:
    """In a fresh interpreter, for a server that is forked has whatever its parent has open."""
    manager = ProbeManager(authkey=KEY)
    manager.start(limit_descriptors, (32,))
    with manager:
        # No two of them fit a segment of the usual size.
        counters = [manager.Counters(9_000_000) for _ in range(100)]
        first = [row.incr(-1, number) for number, row in enumerate(counters)]
        descriptors = held(manager._process.pid)
        return first, descriptors, [in_thread(row.incr, -1) for row in counters]


@on_linux
def test_large_objects_leave_descriptors_for_those_who_connect() -> None:
    first, descriptors, then = call_in_subprocess(use_large_objects_with_few_descriptors)
    assert first == [*range(100)]
    assert descriptors < 24
    assert then == [*range(1, 101)]


@on_linux
def test_zeros_are_not_copied(own_manager: ProbeManager) -> None:
    server = own_manager._process.pid
    own_manager.Counter().incr()
    before = rss_bytes(server)
    counters = own_manager.Counters(10**8)
    assert counters.incr(-1) == 1
    assert rss_bytes(server) < before + 100 * SEGMENT_SIZE


def write_while_arrays_move() -> list[int]:
    """For a fresh interpreter: how many writes are not in the cells, array by array."""
    arena = Arena()
    arena.open()
    lost = []
    for _ in range(10):
        array = Array("q", bytes(8 * SEGMENT_SIZE))
        begun, moved, written = threading.Event(), threading.Event(), [0]

        def write(array: Any = array, moved: Any = moved, begun: Any = begun, n: Any = written):
            while not moved.is_set() and n[0] < len(array):
                array[n[0]] = 1
                n[0] += 1
                begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        other = threading.Thread(target=settle_in, args=(array, arena))
        begun.wait()
        other.start()
        assert settle_in(array, arena)
        moved.set()
        thread.join()
        other.join()
        lost.append(written[0] - array.count(1))
    arena.close()
    return lost


def test_writes_while_an_array_moves() -> None:
    """It is copied while others go on; what they write meanwhile is not lost."""
    assert call_in_subprocess(write_while_arrays_move) == [0] * 10


def drop_in_a_forked_child() -> list[int]:
    """For a fresh interpreter: what is left in cells that a forked child has dropped."""
    arena = Arena()
    arena.open()
    rows = [Counters(size, [5] + [0] * (size - 1)) for size in (1, LARGE // 8)]
    assert all(settle_in(row, arena) for row in rows)
    child = os.fork()
    if child == 0:
        rows.clear()
        made = Counters(LARGE // 8)
        made[0] = 6
        os._exit(0)
    os.waitpid(child, 0)
    left = [row[0] for row in rows]
    arena.close()
    return left


def collect_while_room_is_found() -> list[int]:
    """For a fresh interpreter: what two new cells that are written to have of each other."""
    arena, size = Arena(), LARGE // 8
    arena.open()
    gc.disable()
    found = []
    for soon in range(95, 125):
        # Room for two lies behind room for one, and garbage has room for one before that.
        rows: list[Any] = [Counters(size) for _ in range(7)]
        gc.collect()
        garbage: list[Any] = [rows[0]]
        garbage.append(garbage)
        rows[0] = rows[2] = rows[4] = rows[5] = None
        del garbage
        spare = [[soon] for _ in range(100)]  # the interpreter keeps no list for the next
        gc.set_threshold(soon)
        gc.enable()
        one = Counters(2 * size)
        gc.disable()
        other = Counters(2 * size)
        one[0], one[size] = 1, 1
        found += [other[0], other[size]]
        del one, other, spare
        rows.clear()
    arena.close()
    return found


def test_garbage_that_is_collected_while_room_is_found() -> None:
    """The cells in it are given back in between: what is found then is nobody else's."""
    assert call_in_subprocess(collect_while_room_is_found) == [0] * 60


def test_forked_copy_of_a_server_leaves_its_cells_alone() -> None:
    assert call_in_subprocess(drop_in_a_forked_child) == [5, 5]


@on_linux
def test_a_thousand_objects_leave_nothing(own_manager: ProbeManager) -> None:
    server = own_manager._process.pid

    def use(size: int) -> None:
        counter, lock, value = own_manager.Counter(), own_manager.Lock(), own_manager.Value("i", 0)
        array = own_manager.Array("d", range(size))
        counter.incr()
        lock.acquire()
        value.incr()
        array[-1] += 1
        assert memoryview(array)[size - 1] == size

    use(3000)
    settle(own_manager, 0)
    before = (len(mapped()), len(mapped(server)), held(server), held())
    for round_ in range(250):
        use(1 + round_ * 13)
    settle(own_manager, 0)
    after = (len(mapped()), len(mapped(server)), held(server), held())
    # Cells of each size that a power of two makes fit in a few segments.
    assert after[0] <= before[0] + 2 and after[1] <= before[1] + 2 and after[2] <= before[2] + 2
    assert after[3] == before[3]
    for round_ in range(250):
        use(1 + round_ * 13)
    settle(own_manager, 0)
    assert (len(mapped()), len(mapped(server)), held(server), held()) == after


# Processes


def test_a_child_of_a_fork_goes_on(manager: ProbeManager) -> None:
    counter, rlock, array = manager.Counter(), manager.RLock(), manager.Array("i", [0] * 3)
    counter.incr()
    rlock.acquire()
    array[0] = 5
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            results = [counter.incr(), array[0], array.incr(1), rlock.acquire(False), len(array)]
            for _ in range(100):
                counter.incr()
            os.write(writing, repr(results).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    with open(reading, "rb") as end:
        assert end.read() == b"[2, 5, 1, False, 3]"
    assert (counter.get(), array[:].tolist()) == (102, [5, 1, 0])
    rlock.release()


def count_in_child(address: Any, ident: str, rounds: int, off: bool) -> int:
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    counter = CounterProxy(Token("Counter", address, ident), "pickle", authkey=KEY)
    say("ready")
    sys.stdin.readline()
    for _ in range(rounds):
        counter.incr()
    return counter.get()


def test_nothing_is_lost_between_processes(manager: ProbeManager) -> None:
    counter = manager.Counter()
    rounds = 3000
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                Script(count_in_child, manager.address, counter._token.id, rounds, off)
            )
            for off in (False, False, True)
        ]
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.tell()
        threads = [
            threading.Thread(target=lambda: [counter.incr() for _ in range(rounds)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert max(child.line() for child in children) <= 5 * rounds
    assert counter.get() == counter._callmethod("get") == 5 * rounds


def hold_and_wait(address: Any, ident: str) -> None:
    counter = CounterProxy(Token("Counter", address, ident), "pickle", authkey=KEY)
    counter.incr()
    say("mapped")
    signal.pause()


@on_linux
def test_a_killed_client_leaves_nothing(manager: ProbeManager) -> None:
    counter = manager.Counter()
    counter.incr()
    server = manager._process.pid
    before = (len(mapped(server)), held(server))
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(Script(hold_and_wait, manager.address, counter._token.id))
            for _ in range(3)
        ]
        for child in children:
            assert child.line() == "mapped"
        for child in children:
            kill(child.pid)
        for child in children:
            poll(lambda pid=child.pid: process_gone(pid), "it is dead")
    assert counter.get() == 4
    assert (len(mapped(server)), held(server)) == before


def test_clients_with_their_own_key_share_by_name(manager: ProbeManager) -> None:
    counter = manager.Counter(3, name="of all")
    other = connected(manager.address)
    again = other.Counter(99, name="of all")
    assert (again.incr(), counter.incr()) == (4, 5)


# The parts themselves


@on_linux
def test_only_what_stays_as_large_is_mapped(tmp_path: Path) -> None:
    fd = os.memfd_create("a test's", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    with pytest.raises(OSError, match="segment 3"):
        map_segment(3, os.dup(fd), 0, PAGE, False)  # not sealed
    assert memoryview(map_segment(3, os.dup(fd), 0, PAGE, True)).nbytes == PAGE
    for offset, size in [(0, 3 * PAGE), (2 * PAGE, PAGE), (2**64 - PAGE, 2 * PAGE)]:
        with pytest.raises(OSError, match="segment 4"):
            map_segment(4, os.dup(fd), offset, size, True)
    os.close(fd)
    with pytest.raises(OSError):
        map_segment(5, fd, 0, PAGE, False)


def test_a_cell_lies_in_its_segment() -> None:
    segment = Arena().new(PAGE)
    for offset, size in [(PAGE - 8, 16), (PAGE + 8, 8), (2**64 - 8, 8), (0, PAGE + 1)]:
        with pytest.raises(ValueError, match=r"do not lie in a segment"):
            Cell(size).lie_in(segment, offset)
    Cell(8).lie_in(segment, PAGE - 8)


def test_segments_count_up_and_go() -> None:
    arena = Arena()
    first, second = arena.new(PAGE), arena.new(2 * PAGE)
    assert second.number == first.number + 1
    assert (memoryview(second).nbytes, second.offset, second.is_file) == (2 * PAGE, 0, False)
    assert set(arena.segments) == {first.number, second.number}
    view = memoryview(second)
    del second
    gc.collect()
    view[0] = 1  # it goes when nobody looks at it
    view.release()
    assert set(arena.segments) == {first.number}


def test_what_memory_cannot_hold_is_refused() -> None:
    with pytest.raises(MemoryError):
        Cell(2**62)
    with pytest.raises(OSError):
        Arena().new(2**63)


def test_raw_peers_know_nothing_of_it(manager: ProbeManager) -> None:
    """A stock client counts with the others."""
    counter = manager.Counter(1)
    counter.incr()
    with RawPeer(manager.address) as raw:
        raw.login(KEY)
        assert raw.call(None, "accept_connection", "by hand")[0] == "#RETURN"
        assert raw.call(counter._token.id, "incr", 5) == ("#RETURN", 7)
    assert counter.incr() == 8


def test_the_memory_is_the_one_both_work_on(manager: ProbeManager) -> None:
    array = manager.Array("q", [1, 2])
    with memoryview(array) as items:
        address = ctypes.addressof(ctypes.c_char.from_buffer(items.cast("B")))
    ctypes.c_int64.from_address(address + 8).value = 77
    assert array._callmethod("__getitem__", (1,)) == 77


def test_an_anonymous_create_has_a_cell_too(peer: PassedPeer) -> None:
    reply = peer.ask(OP_CREATE, "Counter", (4,), None)
    assert peer.locate(reply.handle)[0] == COUNTER


def test_an_arena_that_cannot_grow_goes_on_later() -> None:
    arena, counters = Arena(), Counters(3, [1, 2, 3])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for _ in range(2):
            assert not settle_in(counters, arena)
            assert counters.incr(0) > 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert settle_in(counters, arena)
    assert counters.snapshot() == [3, 2, 3]
