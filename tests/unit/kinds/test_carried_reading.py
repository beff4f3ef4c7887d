"""Values that were kept unread, where they are read: once, in order, and while others look."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import connection, resource_sharer
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
    settle,
)
from support.carried import GHOSTS, Box, CarriedManager, Client, Counted, Gate, Insight, Judge, Slow
from support.frames import HEADER, OP_TRACEBACK, request
from support.peers import BufferPeer

from fastmgr.managers import DictProxy, ListProxy, RemoteError, Server, Token
from fastmgr.wire.codec import dumps, loads

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[CarriedManager]:
    """Its server is a fresh interpreter: it has nothing that was made here."""
    with CarriedManager(ctx=multiprocessing.get_context("spawn")) as manager:
        yield manager


@pytest.fixture
def insight(manager: CarriedManager) -> Any:
    return manager.Insight()


# Where the server can read them


def test_they_are_read_once_and_in_order(
    manager: CarriedManager, clients: Callable[[str], Client], insight: Any
) -> None:
    items, d = manager.list(), manager.dict()
    client = clients("reading")

    def fill() -> None:
        for i in (3, 1, 2):
            items.append(Counted(i))
            d[i] = Counted(i)
        assert [value.number for value in items[:]] == [3, 1, 2]
        items.insert(1, 7)
        items.pop(1)

    before = in_thread(insight.loads)
    client(fill)
    assert in_thread(insight.loads) == before  # nothing has been read
    client(items.sort)
    assert in_thread(insight.loads) == before + 3
    assert [value.number for value in client(items.copy)] == [1, 2, 3]
    client(items.reverse)
    client(items.sort)
    assert client(str, items).startswith("[<support.carried.Counted object at 0x")
    assert in_thread(insight.loads) == before + 3
    assert client(items.index, Counted(2)) == 1
    assert client(items.count, Counted(2)) == 1
    assert in_thread(insight.loads) == before + 5  # its arguments
    client(items.append, Counted(0))
    client(items.sort)
    assert [value.number for value in client(items.copy)] == [0, 1, 2, 3]
    assert in_thread(insight.loads) == before + 6
    assert client(d.compare_exchange, 3, Counted(3), "three") is True
    assert client(d.incr, 1, 10) == 11
    assert {k: getattr(v, "number", v) for k, v in client(d.items)} == {3: "three", 1: 11, 2: 2}
    assert in_thread(insight.loads) == before + 6 + 3 + 1


def test_identity_within_a_value_survives(manager: CarriedManager) -> None:
    shared_part = [1]
    items = manager.list()
    items.append(Box(shared_part, shared_part))
    for look in (False, True):
        if look:
            assert items.count(0) == 0
        first, second = items[0].inside
        assert first is second
    items[0] = [shared_part, shared_part]
    first, second = items[0]
    assert first is second


def test_same_argument_twice_is_one_object(manager: CarriedManager) -> None:
    judge = manager.Judge()
    for value in ([1], {}, Counted(1), Box(), bytearray(b"x"), bytearray(100_000)):
        assert judge.are_one(value, value)
        assert judge.are_one(value, value, other=1)
    assert not judge.are_one([1], [1])
    assert not judge.are_one(Counted(1), Counted(1))


def test_one_argument_and_keywords(manager: CarriedManager, ghost: Any) -> None:
    judge, q = manager.Judge(), manager.Queue(1)
    assert judge.kinds(Counted(1), x=1) == ["Counted", "int"]
    assert judge.kinds(1, x=Counted(1)) == ["int", "Counted"]
    assert judge.kinds("a", Counted(1), 2.5, x=Fraction(1), y=None) == [
        "str", "Counted", "float", "Fraction", "NoneType",
    ]  # fmt: skip
    q.put(ghost, block=True, timeout=1)
    assert q.get(block=False) == ghost
    q.put(Counted(1), timeout=Fraction(1))
    assert q.get(timeout=Fraction(1)) == Counted(1)
    q.put(item=Counted(2))
    assert q.get() == Counted(2)
    assert q.empty()
    fresh = manager.Queue()
    with pytest.raises(TypeError):
        fresh.put(ghost, no_such=1)
    assert fresh.empty()


# Everybody at once


def test_a_value_that_changes_while_it_is_read(
    manager: CarriedManager, clients: Callable[[str], Client]
) -> None:
    """What others do to the container meanwhile is done, and is not undone."""
    gate = manager.Gate()
    d, items = manager.dict(), manager.list()
    looker, other = clients("looker"), clients("other")
    for key in "abc":
        d[key] = Slow(ord(key))
        items.append(Slow(ord(key)))
    gate.close()
    looking = looker.start(d.incr, "n")
    assert gate.await_somebody()
    d["a"] = "new"
    del d["b"]
    other(d.__setitem__, "d", Counted(4))
    gate.open()
    assert looking.result(DEADLINE) == 1
    assert d.copy() == {"a": "new", "c": Slow(ord("c")), "d": Counted(4), "n": 1}
    assert d.compare_exchange("d", Counted(4), 4)

    gate.close()
    looking = looker.start(items.count, 0)
    assert gate.await_somebody()
    taken = other(items.pop, 0)
    other(items.insert, 0, "new")
    other(items.insert, 0, Counted(9))
    items.append("last")
    gate.open()
    assert looking.result(DEADLINE) == 0
    assert taken == Slow(ord("a"))
    assert items[:] == [Counted(9), "new", Slow(ord("b")), Slow(ord("c")), "last"]
    assert items.index(Slow(ord("c"))) == 3
    assert items.index(Counted(9)) == 0


def test_clients_that_put_while_others_look(manager: CarriedManager) -> None:
    """Nothing is lost, nothing comes twice, whoever was in between."""
    items, d, q = manager.list(), manager.dict(), manager.Queue()
    putters, rounds = 4, 120
    over = threading.Event()
    failures: list[BaseException] = []

    def put(number: int) -> None:
        for i in range(rounds):
            items.append(Counted(number * rounds + i))
            d[number, i] = Counted(i)
            q.put(Counted(i))
            assert d[number, i] == Counted(i)
            assert q.get() is not None

    def look() -> None:
        while not over.is_set():
            items.sort()
            assert items.count(Counted(-1)) == 0
            d.incr("n")
            numbers = [value.number for value in items[:]]
            assert len(set(numbers)) == len(numbers)

    def run(function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except BaseException as error:
            failures.append(error)

    looker = threading.Thread(target=run, args=(look,), daemon=True)
    threads = [threading.Thread(target=run, args=(put, i), daemon=True) for i in range(putters)]
    looker.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    over.set()
    looker.join(DEADLINE)
    assert not failures, failures
    items.sort()
    assert [value.number for value in items[:]] == list(range(putters * rounds))
    assert d.pop("n") > 0
    assert d.copy() == {(n, i): Counted(i) for n in range(putters) for i in range(rounds)}
    assert q.empty()


# What is not carried


def test_a_proxy_in_a_users_object_keeps_its_referent(manager: CarriedManager) -> None:
    d, q, items = manager.dict(), manager.Queue(), manager.list()
    inner = manager.list([1])
    d["box"] = Box(inner)
    items.append([Box(inner)])
    q.put(Box(inner))
    assert manager._number_of_objects() == 4
    del inner
    gc.collect()
    for found in (d["box"], items[0][0], q.get()):
        (proxy,) = found.inside
        proxy.append(2)
    assert proxy[:] == [1, 2, 2, 2]
    del proxy, found
    gc.collect()
    d.clear()
    items.clear()
    settle(manager, 3)


def test_a_proxy_in_an_object_that_the_server_cannot_read(
    ghosts: Any, manager: CarriedManager
) -> None:
    """It has to be read for the proxy's sake, and so is refused."""
    d = manager.dict(a=1)
    inner = manager.list()
    with pytest.raises(RemoteError, match=GHOSTS):
        d["x"] = ghosts.Ghost("x", inner)
    d["y"] = inner
    del inner
    gc.collect()
    assert d["a"] == 1 and d["y"][:] == []


def take_twice(items: Any, conn: connection.Connection) -> None:
    """In a process of its own: take out what another has put in, and use it."""
    for _ in range(2):
        with items["pipe"] as pipe:
            pipe.send(os.getpid())
        with items["socket"] as sock:
            sock.sendall(b"hello")
    with items["queue"].get() as pipe:
        pipe.send("from the queue")
    conn.send("done")


def test_connections_and_sockets_are_handed_over(manager: CarriedManager) -> None:
    """To whoever takes them, as often as they are taken: the server has them itself."""
    d, q = manager.dict(), manager.Queue()
    d["queue"] = q
    theirs, ours = multiprocessing.Pipe()
    mine, yours = socket.socketpair()
    done, report = multiprocessing.Pipe(duplex=False)
    try:
        with theirs, yours:
            d["pipe"] = theirs
            d["socket"] = yours
            q.put(theirs)
        process = multiprocessing.get_context("fork").Process(target=take_twice, args=(d, report))
        process.start()
        assert done.poll(DEADLINE) and done.recv() == "done"
        process.join(DEADLINE)
        assert process.exitcode == 0
        assert [ours.recv() for _ in range(3)] == [process.pid, process.pid, "from the queue"]
        mine.settimeout(DEADLINE)
        assert b"".join(mine.recv(5, socket.MSG_WAITALL) for _ in range(2)) == b"hello" * 2
        d.clear()
        assert mine.recv(1) == b""  # nobody has another end any more
    finally:
        resource_sharer.stop(DEADLINE)
        for thing in (mine, ours, done, report):
            thing.close()


# What goes wrong


def test_what_cannot_be_pickled_is_an_error_here(
    ghost: Any, manager: CarriedManager, clients: Callable[[str], Client]
) -> None:
    d, q = manager.dict(), manager.Queue()

    def play() -> None:
        for wrong in (threading.Lock(), lambda: 0, [ghost, threading.Lock()]):
            for call in (
                lambda: d.__setitem__("x", wrong),  # noqa: B023
                lambda: q.put(wrong),  # noqa: B023
                lambda: q.put(ghost, timeout=wrong),  # noqa: B023
            ):
                with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
                    call()
            d["y"] = ghost
            assert d.pop("y") == ghost
        assert len(d) == q.qsize() == 0

    clients("clumsy")(play)


class FailsToLoad:
    """It can be pickled; unpickling it raises."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_what_fails_to_load_fails_where_it_is_read(manager: CarriedManager) -> None:
    items = manager.list()
    items.append(FailsToLoad())
    items.append(1)
    with pytest.raises(ValueError, match="not a number"):
        items[0]
    assert items[1] == 1
    with pytest.raises(RemoteError, match="not a number"):
        items.index(1)
    del items[0]
    assert items.index(1) == 0
    assert items[:] == [1]


@pytest.mark.parametrize("name", [[], {}, 5, None, "__class__", "load", "no_such"])
def test_a_name_that_is_none(name: Any, ghost: Any, manager: CarriedManager) -> None:
    d = manager.dict()

    def play() -> None:
        d["x"] = ghost
        with pytest.raises((RemoteError, TypeError)):
            d._callmethod(name)
        assert d["x"] == ghost

    in_thread(play)


# Where methods share what they return


class Wrapper:
    def __init__(self, value: Any) -> None:
        self.value = value

    def kind(self) -> str:
        return type(self.value).__name__


class PeekServer(Server):
    public: ClassVar[list[str]] = [*Server.public, "peek", "keep", "kept"]

    def keep(self, c: Any, ident: str) -> None:
        self.object = self.id_to_obj[ident][0]

    def kept(self, c: Any) -> tuple[str, ...]:
        held = self.object.get_many(9) if hasattr(self.object, "get_many") else self.object
        return tuple(type(value).__name__ for value in held)

    def peek(self, c: Any, ident: str) -> str:
        """As users' servers do: look at a shared object itself."""
        return str(self.id_to_obj[ident][0])


class SharingManager(ProbeManager):
    _Server = PeekServer


SharingManager.register("Insight", Insight)
SharingManager.register("Judge", Judge)
SharingManager.register("Gate", Gate)
SharingManager.register("Wrapper", Wrapper)
SharingManager.register(
    "WrappingDict", dict, DictProxy, method_to_typeid={"get": "Wrapper", "__iter__": "Iterator"}
)
SharingManager.register(
    "CopyingDict", dict, DictProxy, method_to_typeid={"copy": "dict", "__iter__": "Iterator"}
)
SharingManager.register("Inner", proxytype=ListProxy, create_method=False)
SharingManager.register("Outer", list, ListProxy, method_to_typeid={"__getitem__": "Inner"})


@pytest.fixture(scope="module")
def sharing_manager() -> Iterator[SharingManager]:
    with SharingManager(authkey=KEY) as manager:
        yield manager


@pytest.mark.parametrize("kind", ["list", "Queue"])
def test_code_in_the_server_that_has_an_object_meets_no_unread_values(
    sharing_manager: SharingManager, kind: str
) -> None:
    shared = getattr(sharing_manager, kind)()
    put = shared.append if kind == "list" else shared.put
    control = sharing_manager._session.control
    put(Fraction(0))
    control("keep", (shared._token.id,))
    for value in (Fraction(1), 1, bytes):
        put(value)
    assert control("kept") == ("Fraction", "Fraction", "int", "type")


def test_two_look_at_once(sharing_manager: SharingManager) -> None:
    """The second comes while the first is still unpickling."""
    gate, insight, items = sharing_manager.Gate(), sharing_manager.Insight(), sharing_manager.list()
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


def test_what_a_method_shares_is_no_opaque(sharing_manager: SharingManager) -> None:
    d = sharing_manager.WrappingDict()
    d["a"] = Fraction(1, 2)
    assert d.get("a").kind() == "Fraction"


def test_a_shared_copy_holds_values(sharing_manager: SharingManager) -> None:
    d = sharing_manager.CopyingDict()
    d["a"] = Fraction(1, 2)
    copied = d.copy()
    assert copied.compare_exchange("a", Fraction(1, 2), 1) is True


def test_a_shared_copy_shows_values(sharing_manager: SharingManager) -> None:
    d = sharing_manager.CopyingDict()
    d["a"] = Fraction(1, 2)
    assert str(d.copy()) == "{'a': Fraction(1, 2)}"


def test_a_list_in_a_list(sharing_manager: SharingManager) -> None:
    outer = sharing_manager.Outer([[1]])
    inner = outer[0]
    inner.append(Fraction(1, 2))
    assert outer.count([1, Fraction(1, 2)]) == 1


def test_a_list_in_a_list_by_another_proxy(sharing_manager: SharingManager) -> None:
    outer = sharing_manager.Outer([[1]])
    inner = outer[0]
    inner.append(Fraction(1, 2))
    del inner
    inner = outer[0]
    assert inner.index(Fraction(1, 2)) == 1


def test_a_users_server_sees_values(sharing_manager: SharingManager) -> None:
    d = sharing_manager.dict()
    d["a"] = Fraction(1, 2)
    assert sharing_manager._session.control("peek", (d._token.id,)) == "{'a': Fraction(1, 2)}"


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
def test_a_reply_for_which_there_is_no_memory(sharing_manager: SharingManager) -> None:
    """It is a MemoryError of this call, and costs the process nothing that it holds."""
    d = sharing_manager.dict(x=b"x" * (300 << 20))
    seen = call_in_subprocess(read_without_memory, sharing_manager.address, d._token.id)
    assert seen == ["MemoryError", 1]


class Growing:
    """Changes the buffer that it is given."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        data += b"!"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Growing, (PickleBuffer(self.data),)


def test_a_value_that_is_read_while_it_is_sent(sharing_manager: SharingManager) -> None:
    """The server sends the very bytearray that it hands to whatever is unpickled."""
    d = sharing_manager.dict()
    in_thread(d.__setitem__, "x", Growing(bytearray(20 << 20)))
    with BufferPeer(sharing_manager.address) as peer:
        peer.sock.sendall(peer.frame(handle_of(d), request("__getitem__", dumps("x"))))
        begin = peer._read(HEADER.size)  # most of it is unsent
        d.incr("n")  # looks at the values
        peer._read(HEADER.unpack(begin)[0])
        peer.sock.sendall(peer.frame(handle_of(d), request("__len__")))
        assert loads(peer.expect().values) == 2


def test_namespace_is_given_a_dict(sharing_manager: SharingManager) -> None:
    ns = sharing_manager.Namespace()
    ns._callmethod("__setattr__", ("__dict__", {"x": Fraction(1, 2)}))
    assert ns.x == Fraction(1, 2)


def test_argument_and_keyword_are_one_object(sharing_manager: SharingManager) -> None:
    """In the stdlib they are: one pickle for both."""
    value = [1]
    assert sharing_manager.Judge().are_one(value, b=value)


def test_a_name_without_a_hash(sharing_manager: SharingManager) -> None:
    """By hand; before values were carried it was answered with a traceback."""
    d = sharing_manager.dict()
    in_thread(d.__setitem__, "x", Fraction(1, 2))
    with BufferPeer(sharing_manager.address) as peer:
        peer.sock.sendall(peer.frame(handle_of(d), dumps([]) + dumps(()) + dumps(None)))
        peer.expect(OP_TRACEBACK)


def test_printing_changes_nothing(sharing_manager: SharingManager) -> None:
    """After `print(d)` of what the server cannot import, the same can still be put."""
    import types

    module = sys.modules["only_here"] = types.ModuleType("only_here")
    exec("class Thing: pass", vars(module))
    d = sharing_manager.dict()
    d["a"] = module.Thing()
    str(d)
    d["b"] = module.Thing()
