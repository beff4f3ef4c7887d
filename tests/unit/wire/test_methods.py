"""How a method is named on the wire, and how the server calls what it names."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import managers as stdlib
from typing import Any, NamedTuple

import pytest
from support import DEADLINE, KEY, FastPeer, ProbeManager, readable, settle
from support.frames import HEADER, ONEWAY, OP_CALL, OP_ERROR, OP_FAILED, OP_RETURN, OP_TRACEBACK
from support.peers import Reply

from fastmgr import managers, oneway
from fastmgr.client.proxy import Recording
from fastmgr.client.sessions import retire_sessions
from fastmgr.kinds.standard import ROWS
from fastmgr.link.introduction import VERSION, parse_introduction
from fastmgr.wire import codec
from fastmgr.wire.methods import METHODS

# The list

# Of each version of the introduction: how many names it knows, and the digest of them.  Peers of
# one version take the same number for the same name.  A name is added at the end of METHODS,
# together with a new VERSION (link/introduction.py), which gets a line here; a line that is here
# already, and what it stands for, never changes.
PINNED = {
    1: (106, "dc166b56e9ef29e5c77b4320c920ca4d"),
    2: (111, "e27f41bffbbab2919366f448617d3bba"),
    3: (111, "e27f41bffbbab2919366f448617d3bba"),
}


def digest(names: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]


def test_numbers_are_pinned() -> None:
    assert VERSION in PINNED, f"pin what version {VERSION} of the introduction knows"
    assert PINNED[VERSION] == (len(METHODS), digest(METHODS)), (
        "METHODS is part of the wire: add names at the end only, with a new VERSION in "
        f"link/introduction.py and a line in PINNED: ({len(METHODS)}, {digest(METHODS)!r})"
    )
    for number, pinned in PINNED.values():
        assert digest(METHODS[:number]) == pinned


def test_each_name_has_one_number() -> None:
    assert len(set(METHODS)) == len(METHODS)
    assert len(METHODS) < 2**16  # they travel in two bytes, and 0 is none
    assert all(type(name) is str and name for name in METHODS)


def exposed_of(module: Any, base: Any) -> dict[str, set[str]]:
    types = {name: kind for name, kind in vars(module).items() if isinstance(kind, type)}
    return {
        name: set(getattr(kind, "_exposed_", ()))
        for name, kind in types.items()
        if issubclass(kind, base)
    }


def test_every_method_of_the_stdlibs_proxies_has_a_number() -> None:
    found = exposed_of(stdlib, stdlib.BaseProxy)
    assert len(found) > 10
    assert {name: names - set(METHODS) for name, names in found.items()} == {
        # What CPython 3.14 exposes of sets, too, nobody calls.
        name: {"__class_getitem__"} & names
        for name, names in found.items()
    }
    assert set(stdlib.public_methods(__import__("queue").Queue())) <= set(METHODS)
    assert set(stdlib.Server.fallback_mapping) <= set(METHODS)


def test_every_verb_has_a_number() -> None:
    assert {name for row in ROWS for name in row.verbs} <= set(METHODS)
    assert set(managers.Server.fallback_mapping) <= set(METHODS)


# What the server makes of them


class Echoing:
    """Whatever is called of it returns what it is called."""

    def __getattribute__(self, name: str) -> Any:
        return partial(echo, name)


def echo(name: str, *args: Any) -> Any:
    return (name, *args)


class Mine:
    """With methods of no number."""

    def shout(self, text: str) -> str:
        return text.upper()

    def größe(self, text: str) -> int:
        return len(text)

    def get(self) -> str:
        return "a name that has a number, too"


class MethodManager(ProbeManager):
    """With these."""


NAMES = (*METHODS, "another", "größe", "x" * 1000, "")
MethodManager.register("Echoing", Echoing, exposed=NAMES, proxytype=managers.BaseProxy)
MethodManager.register("Mine", Mine)

MANAGER = MethodManager


class NumberingPeer(FastPeer):
    """A raw peer that names methods by numbers."""

    def send_numbered(self, handle: int, number: int, *values: Any, flags: int = 0) -> int:
        body = b"".join(map(codec.dumps, values))
        self.calls += 1
        header = HEADER.pack(len(body), handle, self.calls, number, OP_CALL, flags)
        self.sock.sendall(header + body)
        return self.calls

    def numbered(self, handle: int, number: int, *args: Any) -> Reply:
        call = self.send_numbered(handle, number, args, None)
        reply = self.recv()
        assert reply.call == call
        return reply


@pytest.fixture
def peer(shared_manager: MethodManager) -> Iterator[NumberingPeer]:
    with NumberingPeer(shared_manager.address) as peer:
        yield peer
    settle(shared_manager, 0)


def number_of(name: str) -> int:
    return METHODS.index(name) + 1


def test_every_number_is_its_name(peer: NumberingPeer) -> None:
    handle = peer.create("Echoing")
    for number, name in enumerate(METHODS, 1):
        assert peer.numbered(handle, number, 5)[:1] == (OP_RETURN,)
        assert peer.numbered(handle, number, 5).payload == (name, 5)


def test_by_name_and_by_number_is_the_same(peer: NumberingPeer) -> None:
    handle = peer.create("list", [1, 2, 3])
    for name, args in [
        ("append", (4,)),
        ("__len__", ()),
        ("pop", (0,)),
        ("__getitem__", (1,)),
        ("#GETVALUE", ()),
        ("__str__", ()),
        ("incr", (0, 5)),
    ]:
        by_name = peer.method(handle, name, *args)
        by_number = peer.numbered(handle, number_of(name), *args)
        assert by_name.op == by_number.op == OP_RETURN
    assert peer.numbered(handle, number_of("#GETVALUE")).payload == [13, 4, 4]
    reply = peer.numbered(handle, number_of("__getitem__"), 99)
    assert (reply.op, type(reply.payload)) == (OP_ERROR, IndexError)


@pytest.mark.parametrize("number", [len(METHODS) + 1, 255, 256, 2**15, 2**16 - 1])
def test_unknown_number(peer: NumberingPeer, number: int) -> None:
    """An error of that call; the connection goes on, on the loop and on a worker."""
    for typeid in ("dict", "Mine"):
        handle = peer.create(typeid)
        reply = peer.numbered(handle, number, "a")
        assert reply.op == OP_TRACEBACK
        assert f"a method of number {number}" in reply.payload
        assert peer.numbered(handle, number_of("get"), *["a"] * (typeid == "dict")).op == OP_RETURN


def test_unknown_number_of_a_one_way_call(peer: NumberingPeer) -> None:
    handle = peer.create("list")
    peer.send_numbered(handle, 2**16 - 1, (), None, flags=ONEWAY)
    peer.send_numbered(handle, number_of("append"), (1,), None, flags=ONEWAY)
    call = peer.send_numbered(handle, number_of("__len__"), (), None)
    op, failed, told, (kind, text) = peer.recv()
    assert (op, told, failed, kind) == (OP_FAILED, call, 1, OP_TRACEBACK)
    assert "a method of number 65535" in text
    assert peer.recv() == (OP_RETURN, 0, call, 1)


def test_a_name_before_the_arguments_of_a_number_is_no_name(peer: NumberingPeer) -> None:
    handle = peer.create("list")
    call = peer.send_numbered(handle, number_of("append"), "append", (1,), None)
    reply = peer.recv()
    assert (reply.op in (OP_ERROR, OP_TRACEBACK), reply.call) == (True, call)
    assert peer.numbered(handle, number_of("__len__")).payload == 0


def test_number_of_a_method_that_is_not_exposed(peer: NumberingPeer) -> None:
    handle = peer.create("list")
    reply = peer.numbered(handle, number_of("popitem"))
    assert reply.op == OP_TRACEBACK
    assert "method 'popitem' of <class 'list'> object is not in" in reply.payload
    reply = peer.numbered(5, number_of("popitem"))
    assert reply.op == OP_TRACEBACK
    assert "KeyError: '5: no such object" in reply.payload


@pytest.mark.parametrize("number", [0, 1])
def test_bodies_without_a_name(peer: NumberingPeer, number: int) -> None:
    handle = peer.create("dict")
    for values in ((), ((),), ("get",), ("get", ())):
        peer.send_numbered(handle, number, *values)
        reply = peer.recv()
        assert reply.op in (OP_ERROR, OP_TRACEBACK)
    assert peer.numbered(handle, number_of("__len__")).payload == 0


# What the client makes of them


def test_client_and_server_agree(manager: MethodManager) -> None:
    echoing = manager.Echoing()
    for name in NAMES:
        assert echoing._callmethod(name, (1,)) == (name, 1)
    pipe = manager.pipeline()
    for name in NAMES:
        Recording(pipe._calls, echoing, name)(2)
    assert pipe.execute() == [(name, 2) for name in NAMES]


def test_names_without_a_number(manager: MethodManager) -> None:
    mine = manager.Mine()
    assert mine.shout("a") == "A"
    assert mine.größe("abc") == 3
    assert mine.get() == "a name that has a number, too"
    oneway(mine).shout("b")
    with manager.pipeline() as pipe:
        pipe(mine).größe("abc")
        pipe(mine).get()
        pipe(mine).shout("c")
    assert pipe.results == [3, mine.get(), "C"]


class Frame(NamedTuple):
    op: int
    method: int
    body: bytes


class Tap:
    """Stands between a client and a server, and notes what the client says."""

    def __init__(self, path: str, server: str) -> None:
        self.said = bytearray()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.settimeout(DEADLINE)
        self.thread = threading.Thread(target=self.forward, args=(server,), daemon=True)
        self.thread.start()

    def forward(self, path: str) -> None:
        client, _ = self.listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            while True:
                for source in readable([client, server]):
                    if not (data := source.recv(65536)):
                        return
                    if source is client:
                        self.said += data
                    (server if source is client else client).sendall(data)

    def close(self) -> None:
        """When the client has closed its connection."""
        self.listener.close()
        self.thread.join(DEADLINE)

    def frames(self) -> list[Frame]:
        """The calls of the client."""
        data, at, introduced = bytes(self.said), 0, False
        while not introduced:  # the handshake and the introduction
            (size,) = struct.unpack_from("!i", data, at)
            introduced = parse_introduction(data[at + 4 : at + 4 + size]) is not None
            at += 4 + size
        found = []
        while at < len(data):
            size, _, _, method, op, _ = HEADER.unpack_from(data, at)
            at += HEADER.size
            if op == OP_CALL:
                found.append(Frame(op, method, data[at : at + size]))
            at += size
        return found


def test_what_travels(shared_manager: MethodManager) -> None:
    """Names of the list as their numbers, others in the body."""
    path = f"{os.path.dirname(shared_manager.address)}/tap"
    tap = Tap(path, shared_manager.address)
    try:
        client = MethodManager(path, KEY)
        client.connect()
        d, mine = client.dict(), client.Mine()
        d["a"] = 1
        assert d.get("a") == 1
        assert mine.shout("x") == "X"
        assert mine.get() == "a name that has a number, too"
        oneway(d).incr("a")
        oneway(mine).shout("y")
        with client.pipeline() as pipe:
            pipe(d).get("a")
            pipe(mine).shout("z")
        assert pipe.results == [2, "Z"]
        seen = [(frame.method, b"shout" in frame.body) for frame in tap.frames()]
        numbers = [number_of(name) for name in ("__setitem__", "get", "incr")]
        setitem, get, incr = [(number, False) for number in numbers]
        shout = (0, True)
        assert seen == [setitem, get, shout, get, incr, shout, get, shout]
        for frame in tap.frames():
            assert not any(name in frame.body for name in (b"get", b"incr", b"setitem"))
        del d, mine, pipe
    finally:
        retire_sessions(path)
        tap.close()
        os.unlink(path)


def test_every_method_of_our_proxies_has_a_number() -> None:
    """`fromkeys`, which a dict's proxy of CPython 3.14 exposes as well; nobody calls the other."""
    kinds = [kind for kind in vars(managers).values() if isinstance(kind, type)]
    exposed = {name for kind in kinds for name in getattr(kind, "_exposed_", ())}
    assert exposed - set(METHODS) == {"__class_getitem__"}
