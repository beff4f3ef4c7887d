"""What a client's process has mapped: who maps it, and what becomes of it when an end goes."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    RawPeer,
    Script,
    call_in_subprocess,
    connected,
    kill,
    locally,
    mapped,
    poll,
    process_gone,
    say,
)
from support.memory import LINE, PAGE, ArenaManager, held, on_linux
from support.peers import PassedPeer

from fastmgr import oneway
from fastmgr.client.sessions import retire_sessions
from fastmgr.managers import CounterProxy, RemoteError, Token

pytestmark = pytest.mark.timeout(90)


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


class Liar:
    """A user's class whose method has the server pass a small segment in place of all others."""

    def lie(self) -> None:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        self.small = server.arena.new(PAGE)
        for number in set(server.arena.segments) - {0}:
            server.arena.segments[number] = self.small


class LyingManager(ProbeManager):
    """Whose server says nonsense of its memory."""


LyingManager.register("Liar", Liar)


def count_to_one(address: Any, ident: str) -> Any:
    counter = CounterProxy(Token("Counter", address, ident), "pickle", authkey=KEY)
    with pytest.raises(OSError, match="do not lie in a segment"):
        counter.incr()
    return counter._callmethod("incr")


def test_a_place_outside_of_its_segment_is_an_error_of_the_servers() -> None:
    with LyingManager(authkey=KEY) as manager:
        counters = [manager.Counter() for _ in range(PAGE // LINE + 1)]
        assert [counter.incr() for counter in counters] == [1] * len(counters)
        liar = manager.Liar()
        liar.lie()
        assert call_in_subprocess(count_to_one, manager.address, counters[-1]._token.id) == 2


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


def test_raw_peers_know_nothing_of_it(manager: ProbeManager) -> None:
    """A stock client counts with the others."""
    counter = manager.Counter(1)
    counter.incr()
    with RawPeer(manager.address) as raw:
        raw.login(KEY)
        assert raw.call(None, "accept_connection", "by hand")[0] == "#RETURN"
        assert raw.call(counter._token.id, "incr", 5) == ("#RETURN", 7)
    assert counter.incr() == 8
