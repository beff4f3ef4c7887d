"""Bytes that are not what they ought to be: before the key is proved, and after."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    ProbeManager,
    RawPeer,
    call_in_subprocess,
    connected,
    grown,
    in_thread,
    poll,
    process_gone,
    rss_bytes,
    settle,
    sockets_to,
)

pytestmark = pytest.mark.timeout(90)

CHANCE = random.Random(20)


@pytest.fixture(scope="module", params=[None, ("127.0.0.1", 0)], ids=["unix", "tcp"])
def address(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def manager(address: Any) -> Iterator[ProbeManager]:
    """All goes on with one server, whatever was done to it before."""
    with ProbeManager(address, KEY) as manager:
        yield manager


@contextlib.contextmanager
def goes_on(manager: ProbeManager) -> Iterator[Any]:
    """In the block the server is mistreated; an old client and a new one do not notice."""
    server: int = manager._process.pid
    values = manager.list([0])
    memory = rss_bytes(server)
    stop = threading.Event()
    served = []

    def work() -> None:
        while not stop.is_set():
            values[0] += 1
            served.append(values[0])

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield values
        seen = len(served)
        poll(lambda: len(served) > seen + 20, "the client at work goes on")
    finally:
        stop.set()
        worker.join(DEADLINE)
    assert not worker.is_alive()
    assert served == list(range(1, len(served) + 1))
    assert in_thread(connected(manager.address).dict(a=1).get, "a") == 1
    assert manager._process.pid == server and manager._process.is_alive()
    assert grown(server, memory) < 32 << 20  # what was announced is not allocated


def frame(payload: bytes, announced: int | None = None) -> bytes:
    return struct.pack("!i", len(payload) if announced is None else announced) + payload


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "half a header": b"\0\0",
    "half a frame": frame(b"short", 100),
    "an empty frame": frame(b""),
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": b"\0" * 4096,
    "ones": b"\xff" * 4096,
    "random": CHANCE.randbytes(4096),
    "a huge length": frame(b"x" * 100, 0x7FFFFFFF),
    "a huge extended length": struct.pack("!iQ", -1, 1 << 62) + b"x" * 100,
    "a negative length": frame(b"x", -2),
    "over the limit": frame(b"x" * 257),
    "its own challenge": frame(b"#CHALLENGE#" + b"x" * 20),
    "its own welcome": frame(b"#WELCOME#"),
    "a request": frame(pickle.dumps((None, "shutdown", (), {}))),
    "a request without a challenge": frame(b"#WELCOME#")
    + frame(pickle.dumps((None, "dummy", (), {}))),
}


def send(raw: RawPeer, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        raw.sock.sendall(data)


def hang_up(raw: RawPeer) -> None:
    with contextlib.suppress(OSError):
        raw.sock.shutdown(socket.SHUT_WR)


def test_garbage_before_the_key_is_proved(manager: ProbeManager) -> None:
    """The server says its challenge, perhaps its refusal, and not a word more."""
    with goes_on(manager):
        for _ in range(3):
            for name, data in GARBAGE.items():
                with RawPeer(manager.address) as raw:
                    send(raw, data)
                    hang_up(raw)
                    said = raw.frames_until_eof()
                assert all(word.startswith(b"#CHALLENGE#") for word in said[:1]), (name, said)
                assert said[1:] in ([], [b"#FAILURE#"]), (name, said)


@pytest.mark.parametrize("name", [name for name in GARBAGE if "length" in name or "over" in name])
def test_the_impossible_is_not_waited_for(name: str, manager: ProbeManager) -> None:
    """What can never become an answer ends the connection, before the time limit does."""
    with RawPeer(manager.address) as raw:
        raw.recv_frame()
        send(raw, GARBAGE[name])
        raw.sock.settimeout(8)  # below the default limit of a handshake
        assert raw.frames_until_eof() in ([], [b"#FAILURE#"])


def test_a_crowd_of_silent_and_half_silent_strangers(manager: ProbeManager) -> None:
    """They are all there at once, and hold nobody up."""
    with contextlib.ExitStack() as stack, goes_on(manager):
        for i in range(60):
            raw = stack.enter_context(RawPeer(manager.address))
            send(raw, [b"", b"\0", frame(b"half", 30), frame(b"half", 256)][i % 4])
        assert manager.dict(a=1)["a"] == 1


def drip(raw: RawPeer, _: str) -> None:
    raw.sock.sendall(frame(b"half of a request", 1000))


def huge(raw: RawPeer, _: str) -> None:
    raw.sock.sendall(frame(b"x" * 1000, 0x7FFFFFFF))


def huger(raw: RawPeer, _: str) -> None:
    raw.sock.sendall(struct.pack("!iQ", -1, 1 << 60) + b"x" * 1000)


def negative(raw: RawPeer, _: str) -> None:
    raw.sock.sendall(frame(b"x" * 100, -5))


def half_header(raw: RawPeer, _: str) -> None:
    raw.sock.sendall(b"\0\0\0")


def half_reply(raw: RawPeer, ident: str) -> None:
    """Ask for more than the buffers hold, and do not read it."""
    raw.send_frame(pickle.dumps((ident, "__mul__", (100_000,), {})))
    raw.sock.recv(10)


class Explosive:
    """Its unpickling fails."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return int, ("not a number",)


class Exiting:
    """Its unpickling ends the thread, if it is let."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise SystemExit(3)",)


BROKEN_PICKLES: dict[str, bytes] = {
    "random": CHANCE.randbytes(200),
    "empty": b"",
    "cut off": pickle.dumps((None, "dummy", (), {}))[:-4],
    "no tuple": pickle.dumps(17),
    "too short": pickle.dumps((None, "dummy")),
    "too long": pickle.dumps((None, "dummy", (), {}, 1, 2)),
    "method is no text": pickle.dumps((None, 12, (), {})),
    "method is unhashable": pickle.dumps((None, [], (), {})),
    "ident is unhashable": pickle.dumps(([], "append", (), {})),
    "ident is a number": pickle.dumps((12, "append", (), {})),
    "ident is empty": pickle.dumps(("", "append", (), {})),
    "ident is long": pickle.dumps(("f" * 10_000, "append", (), {})),
    "ident is strange": pickle.dumps(("\0\N{SNOWMAN}-7", "append", (), {})),
    "arguments are no tuple": pickle.dumps((None, "dummy", 5, {})),
    "keywords are no dict": pickle.dumps((None, "dummy", (), 5)),
    "keywords are no text": pickle.dumps((None, "dummy", (), {1: 2})),
    "unknown class": b"cno_such_module\nNoSuchClass\n.",
    "fails": pickle.dumps((None, "dummy", (Explosive(),), {})),
    "exits": pickle.dumps((None, "dummy", (Exiting(),), {})),
}


@pytest.mark.parametrize("broken", [drip, huge, huger, negative, half_header, half_reply])
@pytest.mark.parametrize("phase", ["request", "session"])
def test_a_broken_frame_after_the_key_is_proved(
    phase: str, broken: Callable[[RawPeer, str], None], manager: ProbeManager
) -> None:
    with goes_on(manager) as values:
        for _ in range(3):
            with RawPeer(manager.address) as raw:
                raw.login()
                if phase == "session":
                    raw.call(None, "accept_connection", "someone")
                with contextlib.suppress(OSError):
                    broken(raw, values._token.id)
    settle(manager, 1)  # `values` alone


@pytest.mark.parametrize("name", BROKEN_PICKLES)
def test_a_broken_pickle_after_the_key_is_proved(name: str, manager: ProbeManager) -> None:
    """It is answered with a traceback, or ends this one connection."""
    with goes_on(manager) as values:
        for session in (False, True):
            with RawPeer(manager.address) as raw:
                raw.login()
                if session:
                    raw.call(None, "accept_connection", "someone")
                raw.send_frame(BROKEN_PICKLES[name])
                hang_up(raw)
                for reply in map(pickle.loads, raw.frames_until_eof()):
                    assert reply[0] == "#TRACEBACK" and isinstance(reply[1], str)
        with RawPeer(manager.address) as raw:
            raw.login()
            raw.call(None, "accept_connection", "someone")
            # What does not unpickle is an error of this request, not the end of the session.
            raw.send_frame(BROKEN_PICKLES["unknown class"])
            assert pickle.loads(raw.recv_frame())[0] == "#TRACEBACK"
            assert raw.call(values._token.id, "__len__") == ("#RETURN", 1)
    settle(manager, 1)  # `values` alone


MADNESS: list[bytes] = [
    b"\0",
    b"\xff" * 64,
    b"\0" * 4096,
    struct.pack("<I", 0x7FFFFFF0) + b"x" * 100,
    struct.pack(">I", 0x7FFFFFF0) + b"x" * 100,
    struct.pack("<Q", 1 << 62) + b"x" * 100,
    struct.pack("<I", 40) + b"\0" * 10,
    b"(" * 5000,
    *(random.Random(seed).randbytes(size) for seed, size in enumerate([7, 40, 300, 5000, 70_000])),
]


def go_mad(address: Address, madness: int) -> None:
    """An ordinary client of fastmgr, until its connections are filled with something else."""
    manager = connected(address)
    keep = [manager.list([1]), manager.Lock(), manager.Queue()]
    keep[0].append(2)
    found = 0
    place = address if isinstance(address, str) else tuple(address)
    for sock in sockets_to(place):
        found += 1
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(MADNESS[madness])
    os._exit(0 if found else 1)


def go_mad_in_every_way(address: Address) -> list[int]:
    statuses = []
    for madness in range(len(MADNESS)):
        for _ in range(3):
            pid = os.fork()
            if not pid:
                try:
                    go_mad(address, madness)
                finally:
                    os._exit(2)
            statuses.append(os.waitpid(pid, 0)[1])
    return statuses


def test_fastmgr_clients_that_go_mad(manager: ProbeManager) -> None:
    """The same for the dialect that fastmgr's clients speak once they are introduced."""
    with goes_on(manager):
        statuses = call_in_subprocess(go_mad_in_every_way, manager.address, timeout=60)
        assert statuses == [0] * (3 * len(MADNESS))
    settle(manager, 0)


def test_the_server_is_not_ended_by_any_of_it(address: Any) -> None:
    """Only its manager ends it, or someone who knows the key."""
    with ProbeManager(address, KEY) as manager:
        server: int = manager._process.pid
        with RawPeer(manager.address) as raw:
            send(raw, frame(pickle.dumps((None, "shutdown", (), {}))))
            hang_up(raw)
            raw.frames_until_eof()
        os.kill(server, signal.SIGINT)  # Ctrl-C is for its parent
        assert in_thread(manager.list([1]).pop) == 1
        with RawPeer(manager.address) as raw:
            assert raw.login().call(None, "shutdown") == ("#RETURN", None)
        poll(lambda: process_gone(server), "the server has shut down")
