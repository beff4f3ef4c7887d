"""Clients that die, are interrupted or do not read in the middle of a large buffer."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pickle import PickleBuffer
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    ProbeManager,
    Script,
    at_rest,
    call_in_subprocess,
    connected,
    grown,
    handle_of,
    in_thread,
    kill,
    poll,
    process_gone,
    rss_bytes,
    say,
    settle,
    sockets_to,
)
from support.frames import HEADER, OP_CALL, SEGMENT, SEGMENTED
from support.values import TUPLE

from fastmgr.managers import DictProxy, Token
from fastmgr.wire.codec import dumps

pytestmark = pytest.mark.timeout(90)

LARGE = 50 << 20
TABLE_OF_ONE = struct.Struct("<QQQ")


class Held:
    """Leaves its buffer to pickle."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (PickleBuffer(self.data),)


@pytest.fixture(params=[None, ("127.0.0.1", 0)], ids=["unix", "tcp"])
def manager(request: pytest.FixtureRequest) -> Iterator[ProbeManager]:
    with ProbeManager(request.param, KEY) as manager:
        yield manager


def dict_at(address: Address, ident: str) -> Any:
    place = address if isinstance(address, str) else tuple(address)
    return DictProxy(Token("dict", place, ident), "pickle", authkey=KEY)


def socket_to(address: Address) -> socket.socket:
    """The connection of this process's only client, which waits for as long as it takes."""
    place = address if isinstance(address, str) else tuple(address)
    (found,) = [sock.dup() for sock in sockets_to(place) if sock.getpeername() == place]
    # The main thread's looks for signals now and then: to Python half a reply would be all of it.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 0))
    return found


def setting(proxy: Any, key: str, size: int) -> bytes:
    """The beginning of ``proxy[key] = size bytes``: all of the frame but the bytes."""
    values = dumps("__setitem__") + bytes([TUPLE, 2]) + dumps(key) + bytes([SEGMENT]) + dumps(None)
    body = TABLE_OF_ONE.pack(1, len(values), size) + values
    return HEADER.pack(len(body) + size, handle_of(proxy), 9, 0, OP_CALL, SEGMENTED) + body


def getting(proxy: Any, key: str, call: int) -> bytes:
    body = dumps("__getitem__") + dumps((key,)) + dumps(None)
    return HEADER.pack(len(body), handle_of(proxy), call, 0, OP_CALL, 0) + body


@contextlib.contextmanager
def others_go_on(manager: ProbeManager) -> Iterator[None]:
    """In the block a client at work is served all the time, and none of its calls takes long."""
    values = manager.list([0])
    stop, served = threading.Event(), [0]

    def work() -> None:
        while not stop.is_set():
            values[0] += 1
            served[0] = values[0]

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
        before = served[0]
        poll(lambda: served[0] > before + 20, "the client at work goes on")
    finally:
        stop.set()
        worker.join(DEADLINE)
    assert not worker.is_alive() and values[0] == served[0]


# Killed while they send


def send_half(address: Address, ident: str) -> None:
    d = dict_at(address, ident)
    assert len(d) == 1
    sock = socket_to(address)
    sock.sendall(setting(d, "x", LARGE) + bytes(LARGE // 2))
    say("half")
    signal.pause()


def test_a_client_that_is_killed_in_the_middle_of_a_buffer(manager: ProbeManager) -> None:
    """What the server had of it is given back; the others have not noticed."""
    server: int = manager._process.pid
    d = manager.dict(a=1)
    with others_go_on(manager):
        memory = rss_bytes(server)
        with Script(send_half, manager.address, d._token.id) as script:
            assert script.line() == "half"
            poll(lambda: rss_bytes(server) - memory > LARGE // 3, "the server has it")
            assert d.copy() == {"a": 1}
            os.kill(script.pid, signal.SIGKILL)
            poll(lambda: grown(server, memory) < 8 << 20, "its memory is back")
    assert d.copy() == {"a": 1}
    settle(manager, 1)


def set_large(address: Address, ident: str) -> None:
    d = dict_at(address, ident)
    say(len(d))
    sys.stdin.readline()
    d["x"] = Held(bytearray(LARGE))
    d["y"] = bytes(LARGE)
    say("done")


def test_a_client_that_is_killed_while_it_waits_to_send(manager: ProbeManager) -> None:
    """The server is stopped meanwhile, and finds half a buffer and the end."""
    server: int = manager._process.pid
    d = manager.dict(a=1)
    memory = rss_bytes(server)
    with Script(set_large, manager.address, d._token.id) as script:
        assert script.line() == 1
        os.kill(server, signal.SIGSTOP)
        try:
            script.tell("go")
            poll(lambda: rss_bytes(script.pid) > LARGE, "it has what it sends")
            poll(lambda: at_rest(script.pid), "it waits to send")
            os.kill(script.pid, signal.SIGKILL)
            poll(lambda: process_gone(script.pid), "it is dead")
        finally:
            os.kill(server, signal.SIGCONT)
    settle(manager, 1)
    assert d.copy() == {"a": 1}
    poll(lambda: grown(server, memory) < 8 << 20, "its memory is back")


def set_and_get(address: Address, ident: str) -> None:
    """Until it is killed."""
    d = dict_at(address, ident)
    say(len(d))
    while True:
        for value in (bytes(3 << 20), bytearray(5 << 20), Held(bytes(4 << 20))):
            d["x"] = value
            d["x"]


def test_clients_that_are_killed_at_any_moment(manager: ProbeManager) -> None:
    """What is there is whole: one of the values that were put."""
    server: int = manager._process.pid
    d = manager.dict(x=b"")
    chance, memory = random.Random(3), rss_bytes(server)
    with others_go_on(manager):
        for _ in range(4):
            with Script(set_and_get, manager.address, d._token.id) as script:
                assert script.line() == 1
                time.sleep(chance.uniform(0.0, 0.05))  # any moment will do
                kill(script.pid)
            found = d["x"]
            found = found.data if isinstance(found, Held) else found
            assert found in (b"", bytes(3 << 20), bytes(5 << 20), bytes(4 << 20))
    d.clear()
    del found
    gc.collect()
    settle(manager, 1)
    # Buffers of a few megabytes leave the allocator with some more.
    poll(lambda: grown(server, memory) < 40 << 20, "nothing of it is kept")


# Interrupted


def interrupt_large_calls(address: Address, times: int) -> list[Any]:
    """Be interrupted at any point of sending and receiving; count wrong answers."""
    manager = connected(address)
    d, chance = manager.dict(x=b"x" * (2 << 20)), random.Random(5)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    wrong = interrupted = 0
    for _ in range(times):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.01))
            while True:
                d["y"] = b"y" * (3 << 20)
                wrong += d["x"] != b"x" * (2 << 20)
                wrong += d["y"] != b"y" * (3 << 20)
        except KeyboardInterrupt:
            interrupted += 1
    return [wrong, interrupted, sorted(d.keys()), len(d["x"])]


def test_calls_that_are_interrupted_anywhere(manager: ProbeManager) -> None:
    """A buffer that was sent in part is never taken for something else."""
    seen = call_in_subprocess(interrupt_large_calls, manager.address, 60, timeout=60)
    assert seen == [0, 60, ["x", "y"], 2 << 20]
    settle(manager, 0)


# Those who do not read


def ask_and_wait(address: Address, ident: str, times: int) -> None:
    """Ask for something large, do not read it, and ask some more; then read all."""
    d = dict_at(address, ident)
    size = len(d["x"])
    sock = socket_to(address)
    sock.sendall(b"".join(getting(d, "x", i) for i in range(times)))
    say("asked")
    sys.stdin.readline()
    right = 0
    with sock.makefile("rb") as replies:
        for i in range(times):
            header = HEADER.unpack(replies.read(HEADER.size))
            body = replies.read(header[0])
            right += header[2] == i and body.endswith(b"x" * size)
    say(right)


def test_a_client_that_does_not_read_holds_up_nobody(manager: ProbeManager) -> None:
    """It costs the server no copy, and gets all of it when it reads at last."""
    server: int = manager._process.pid
    d = manager.dict(x=b"x" * LARGE)
    with others_go_on(manager):
        scripts = [Script(ask_and_wait, manager.address, d._token.id, 2) for _ in range(2)]
        with scripts[0], scripts[1]:
            for script in scripts:
                assert script.line() == "asked"
            memory = rss_bytes(server)
            assert in_thread(lambda: len(d["x"])) == LARGE
            assert grown(server, memory) < 8 << 20  # all get the same
            del d["x"]
            d["x"] = b"x" * LARGE
            for script in scripts:
                script.tell("read")
                assert script.line() == 2
                assert script.process.wait(DEADLINE) == 0
    settle(manager, 1)


def test_a_client_that_is_killed_before_it_reads(manager: ProbeManager) -> None:
    """What was to be sent to it goes with it."""
    server: int = manager._process.pid
    d = manager.dict()
    memory = rss_bytes(server)
    d["x"] = b"x" * LARGE
    with others_go_on(manager):
        with Script(ask_and_wait, manager.address, d._token.id, 3) as script:
            assert script.line() == "asked"
            assert len(d) == 1
            kill(script.pid)
            poll(lambda: process_gone(script.pid), "it is dead")
        del d["x"]
        poll(lambda: grown(server, memory) < 8 << 20, "its memory is back")
    settle(manager, 1)
    assert d.copy() == {}


def ask_for_a_lock(address: Address, idents: list[str]) -> None:
    """Behind something large, which is not read."""
    d, lock = dict_at(address, idents[0]), dict_at(address, idents[1])
    assert len(d) == 2
    sock = socket_to(address)
    acquire = dumps("acquire") + dumps(()) + dumps(None)
    asked = HEADER.pack(len(acquire), handle_of(lock), 8, 0, OP_CALL, 0) + acquire
    sock.sendall(getting(d, "x", 7) + getting(d, "y", 7) + asked)
    say("asked")
    signal.pause()


def test_a_lock_behind_a_reply_that_is_not_read(manager: ProbeManager) -> None:
    """Killed, the client neither gets it nor leaves what it was sent."""
    server: int = manager._process.pid
    d, lock = manager.dict(), manager.Lock()
    memory = rss_bytes(server)
    d["x"], d["y"] = b"x" * (200 << 10), b"y"
    lock.acquire()
    with Script(ask_for_a_lock, manager.address, [d._token.id, lock._token.id]) as script:
        assert script.line() == "asked"
        assert len(d) == 2
        kill(script.pid)
        poll(lambda: process_gone(script.pid), "it is dead")
    lock.release()
    assert lock.acquire(timeout=DEADLINE)
    lock.release()
    d.clear()
    settle(manager, 2)
    assert grown(server, memory) < 8 << 20
