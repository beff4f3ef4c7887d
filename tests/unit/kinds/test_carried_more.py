"""Carried values where several look at once, where methods share what they return, and the like."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, ClassVar

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    call_in_subprocess,
    connected,
    handle_of,
    in_thread,
    poll,
)
from support.carried import Counted, Gate, Insight, Judge, Slow
from support.frames import HEADER, OP_TRACEBACK, request
from support.peers import SegmentPeer

from fastmgr.managers import DictProxy, ListProxy, Server, Token
from fastmgr.wire.codec import dumps, loads

pytestmark = pytest.mark.timeout(60)


class Wrapper:
    def __init__(self, value: Any) -> None:
        self.value = value

    def kind(self) -> str:
        return type(self.value).__name__


class PeekServer(Server):
    public: ClassVar[list[str]] = [*Server.public, "peek"]

    def peek(self, c: Any, ident: str) -> str:
        """As users' servers do: look at a shared object itself."""
        return str(self.id_to_obj[ident][0])


class BugManager(ProbeManager):
    _Server = PeekServer


BugManager.register("Insight", Insight)
BugManager.register("Judge", Judge)
BugManager.register("Gate", Gate)
BugManager.register("Wrapper", Wrapper)
BugManager.register(
    "WrappingDict", dict, DictProxy, method_to_typeid={"get": "Wrapper", "__iter__": "Iterator"}
)
BugManager.register(
    "CopyingDict", dict, DictProxy, method_to_typeid={"copy": "dict", "__iter__": "Iterator"}
)
BugManager.register("Inner", proxytype=ListProxy, create_method=False)
BugManager.register("Outer", list, ListProxy, method_to_typeid={"__getitem__": "Inner"})


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[BugManager]:
    with BugManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: BugManager) -> BugManager:
    return shared_manager


def test_two_look_at_once(manager: BugManager) -> None:
    """The second comes while the first is still unpickling."""
    gate, insight, items = manager.Gate(), manager.Insight(), manager.list()
    for i in range(3):
        items.append(Slow(i))
    gate.close()
    results: list[Any] = []

    def look() -> None:
        try:
            results.append(items.count(Counted(2)))  # itself, it is not slow
        except BaseException as error:
            results.append(error)

    first = threading.Thread(target=look, name="first", daemon=True)
    first.start()
    assert gate.await_somebody()
    second = threading.Thread(target=look, name="second", daemon=True)
    second.start()
    poll(lambda: any("second" in n for n in insight.threads()), "the second is served")
    for _ in range(3):
        insight.threads()
    gate.open()
    for thread in (first, second):
        thread.join(DEADLINE)
    assert results == [1, 1]


def test_what_a_method_shares_is_no_opaque(manager: BugManager) -> None:
    d = manager.WrappingDict()
    d["a"] = Fraction(1, 2)
    assert d.get("a").kind() == "Fraction"


def test_a_shared_copy_holds_values(manager: BugManager) -> None:
    d = manager.CopyingDict()
    d["a"] = Fraction(1, 2)
    copied = d.copy()
    assert copied.compare_exchange("a", Fraction(1, 2), 1) is True


def test_a_shared_copy_shows_values(manager: BugManager) -> None:
    d = manager.CopyingDict()
    d["a"] = Fraction(1, 2)
    assert str(d.copy()) == "{'a': Fraction(1, 2)}"


def test_a_list_in_a_list(manager: BugManager) -> None:
    outer = manager.Outer([[1]])
    inner = outer[0]
    inner.append(Fraction(1, 2))
    assert outer.count([1, Fraction(1, 2)]) == 1


def test_a_list_in_a_list_by_another_proxy(manager: BugManager) -> None:
    outer = manager.Outer([[1]])
    inner = outer[0]
    inner.append(Fraction(1, 2))
    del inner
    inner = outer[0]
    assert inner.index(Fraction(1, 2)) == 1


def test_a_users_server_sees_values(manager: BugManager) -> None:
    d = manager.dict()
    d["a"] = Fraction(1, 2)
    assert manager._session.control("peek", (d._token.id,)) == "{'a': Fraction(1, 2)}"


def read_without_memory(address: Any, ident: str) -> list[Any]:
    manager = connected(address)
    mine = manager.dict(a=1)
    d = DictProxy(Token("dict", address, ident), "pickle", authkey=KEY)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), used + (100 << 20)))
    seen: list[Any] = []
    try:
        d["x"]
    except BaseException as error:
        seen.append(type(error).__name__)
    try:
        seen.append(mine["a"])
    except BaseException as error:
        seen.append(repr(error))
    return seen


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
def test_a_reply_for_which_there_is_no_memory(manager: BugManager) -> None:
    """It is a MemoryError of this call, and costs the process nothing that it holds."""
    d = manager.dict(x=b"x" * (300 << 20))
    seen = call_in_subprocess(read_without_memory, manager.address, d._token.id)
    assert seen == ["MemoryError", 1]


class Growing:
    """Changes the buffer that it is given."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        data += b"!"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Growing, (PickleBuffer(self.data),)


def test_a_value_that_is_read_while_it_is_sent(manager: BugManager) -> None:
    """The server sends the very bytearray that it hands to whatever is unpickled."""
    d = manager.dict()
    in_thread(d.__setitem__, "x", Growing(bytearray(20 << 20)))
    with SegmentPeer(manager.address) as peer:
        peer.sock.sendall(peer.frame(handle_of(d), request("__getitem__", dumps("x"))))
        begin = peer._read(HEADER.size)  # most of it is unsent
        d.incr("n")  # looks at the values
        peer._read(HEADER.unpack(begin)[0])
        peer.sock.sendall(peer.frame(handle_of(d), request("__len__")))
        assert loads(peer.expect().values) == 2


def test_namespace_is_given_a_dict(manager: BugManager) -> None:
    ns = manager.Namespace()
    ns._callmethod("__setattr__", ("__dict__", {"x": Fraction(1, 2)}))
    assert ns.x == Fraction(1, 2)


def test_argument_and_keyword_are_one_object(manager: BugManager) -> None:
    """In the stdlib they are: one pickle for both."""
    value = [1]
    assert manager.Judge().are_one(value, b=value)


def test_a_name_without_a_hash(manager: BugManager) -> None:
    """By hand; before values were carried it was answered with a traceback."""
    d = manager.dict()
    in_thread(d.__setitem__, "x", Fraction(1, 2))
    with SegmentPeer(manager.address) as peer:
        peer.sock.sendall(peer.frame(handle_of(d), dumps([]) + dumps(()) + dumps(None)))
        peer.expect(OP_TRACEBACK)


def test_printing_changes_nothing(manager: BugManager) -> None:
    """After `print(d)` of what the server cannot import, the same can still be put."""
    import types

    module = sys.modules["only_here"] = types.ModuleType("only_here")
    exec("class Thing: pass", vars(module))
    d = manager.dict()
    d["a"] = module.Thing()
    str(d)
    d["b"] = module.Thing()
