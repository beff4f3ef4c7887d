"""What loop and workers serve by: who may spin, deadlines, and where objects are dropped."""

from __future__ import annotations

import gc
import os
import resource
import threading
from typing import Any, ClassVar

import pytest
from support import DEADLINE, FastPeer, call_in_subprocess, poll
from support.frames import HEADER, OP_CALL, OP_RETURN
from support.servers import SeenServer, await_place, conn_of, hooked

from fastmgr.kinds.waits import Waiter
from fastmgr.server.connection import Place
from fastmgr.server.driver import has_few_descriptors
from fastmgr.wire.codec import dumps


def few_with(limits: list[int]) -> list[bool]:
    found = []
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        found.append(has_few_descriptors())
    return found


def test_few_descriptors_are_fewer_than_32() -> None:
    assert call_in_subprocess(few_with, [33, 32, 31]) == [False, False, True]


# Load


class SpinPeer(FastPeer):
    def may_spin(self, handle: int) -> bool:
        """Make a call; whether the reply says that this client may spin."""
        self.send(OP_CALL, dumps("__len__") + dumps(()) + dumps(None), handle)
        size, _handle, _call, spins, op, _flags = HEADER.unpack(self._read(HEADER.size))
        assert op == OP_RETURN
        self._read(size)
        return bool(spins)


def test_clients_may_spin_while_processors_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop takes one processor, and each of its clients one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with hooked(SeenServer) as manager, SpinPeer(manager.address) as one:
        handle = one.create("list")
        assert [one.may_spin(handle) for _ in range(32)][-1]
        with SpinPeer(manager.address) as two:
            handles = {one: handle, two: two.create("list")}
            assert not [peer.may_spin(handles[peer]) for _ in range(16) for peer in handles][-1]
        assert [one.may_spin(handle) for _ in range(32)][-1]


# Timers


def test_a_wait_ends_at_its_deadline(peer_here: FastPeer, serving: Any) -> None:
    queue = peer_here.create("Queue")
    reply = peer_here.method(queue, "get", True, 0.01)
    assert type(reply.payload).__name__ == "Empty"
    assert conn_of(serving).waiter is None


def waiters() -> int:
    gc.collect()
    return sum(type(obj) is Waiter for obj in gc.get_objects())


def test_timers_of_finished_waits_do_not_gather(peer_here: FastPeer, serving: Any) -> None:
    """Their deadlines are hours ahead."""
    queue, conn = peer_here.create("Queue"), conn_of(serving)
    before = waiters()
    for number in range(80):
        peer_here.send(OP_CALL, dumps("get") + dumps((True, 9999)) + dumps(None), queue)
        await_place(conn, Place.PARKED)
        serving.table.lookup(queue).obj.put(number)
        assert peer_here.recv().payload == number
    assert waiters() - before <= 66


# Disposal


class Slow:
    """An object whose destructor takes as long as the test wants."""

    ends = threading.Event()
    ended_on: ClassVar[list[str]] = []

    def __del__(self) -> None:
        assert Slow.ends.wait(DEADLINE)
        Slow.ended_on.append(threading.current_thread().name)


def test_a_worker_drops_what_a_dead_client_held(peer_here: FastPeer, serving: Any) -> None:
    """The loop serves others meanwhile, and the engine counts the thread that is at it."""
    serving.registry["Slow"] = (Slow, (), None, None)
    with FastPeer(serving.address) as other:
        peer_here.create("Slow")
        peer_here.sock.close()
        poll(lambda: serving._engine.disposing == 1, "it is being dropped")
        assert other.control("dummy").op == OP_RETURN
        assert Slow.ended_on == []
        Slow.ends.set()
        poll(lambda: serving._engine.disposing == 0, "it is dropped")
    assert Slow.ended_on == ["disposal"]
