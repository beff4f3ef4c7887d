"""One-way calls where something goes wrong; the docstrings say what once did."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from support import DEADLINE, KEY, FastPeer, Script, in_thread, poll, settle
from support.frames import HEADER, ONEWAY, OP_CALL
from support.oneway import Journal, OnewayManager, cause_of, failure_of
from support.servers import TableServer, told
from support.signals import Interrupt, signals_when

from fastmgr import OnewayError, managers, oneway
from fastmgr.wire import codec
from fastmgr.wire.methods import METHODS

ENDED: list[str] = []


class Marked(Exception):
    """Notes on which thread of the server it is destroyed."""

    def __del__(self) -> None:
        ENDED.append(threading.current_thread().name)


class Item:
    """The same; the server unpickles it, for its pickle names multiprocessing."""

    def __reduce__(self) -> Any:
        return item, ("multiprocessing",)

    def __del__(self) -> None:
        ENDED.append(threading.current_thread().name)


def item(_note: str) -> Item:
    return Item()


class Marking:
    def fail(self) -> None:
        raise Marked

    def fail_with(self, value: Any) -> None:
        raise ValueError("of mine")

    def ended(self) -> list[str]:
        gc.collect()
        return list(ENDED)

    def begin(self) -> None:
        ENDED.clear()


class Unreadable:
    def __reduce__(self) -> Any:
        return unreadable, ()


def unreadable() -> None:
    raise ZeroDivisionError("of its unpickling")


class Box:
    def unreadable(self) -> Unreadable:
        return Unreadable()


THE_JOURNAL = Journal()


def the_journal() -> Journal:
    return THE_JOURNAL


class FailingManager(OnewayManager):
    pass


FailingManager.register("Marking", Marking)
FailingManager.register("Box", Box)
FailingManager.register("TheJournal", the_journal)


@pytest.fixture
def manager() -> Iterator[FailingManager]:
    with FailingManager(authkey=KEY) as manager:
        yield manager


def test_what_is_no_proxy_is_refused() -> None:
    """A segmentation fault: Posting.__call__ casts without looking (<ProxyCore>)."""
    code = (
        "import fastmgr\ntry: fastmgr.oneway({}).get('a')\nexcept (TypeError, AttributeError): pass"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def test_creating_after_a_failure_that_must_be_pickled(manager: Any) -> None:
    """The loop hands the reply to a worker (`undelivered`), which sends it with handle 0."""
    q = manager.Queue(1)
    q.put(1)
    oneway(q).put_nowait(2)
    d = manager.dict(a=1)
    error = failure_of(d.get, "a")
    assert (type(cause_of(error)), error.result) == (queue.Full, 1)


def test_proxy_after_a_failure_that_must_be_pickled(manager: Any) -> None:
    """The same."""
    q, d = manager.Queue(1), manager.dict(a=1)
    q.put(1)
    oneway(q).put_nowait(2)
    error = failure_of(iter, d)
    assert type(cause_of(error)) is queue.Full
    assert next(error.result) == "a"


def test_failures_before_and_after_an_object_is_created(manager: Any) -> None:
    """The second report overwrites the first (`self.failure` in FastChannel.check)."""
    journal = manager.Journal()
    oneway(journal).fail("first")
    d = manager.dict()
    oneway(journal).fail("second")
    error = failure_of(len, d)
    assert cause_of(error).args == ("first",)
    assert error.failed == 2


def test_oneway_error_can_be_pickled_and_copied() -> None:
    """A process pool whose task raises it hangs in its parent otherwise."""
    for make in (lambda error: pickle.loads(pickle.dumps(error)), copy.copy):
        error = make(OnewayError(2, 5, "dict.pop() of object 1", "KeyError: 1", False))
        assert (error.failed, error.result, error.made) == (2, 5, False)
        assert str(error).startswith(
            "the one-way call dict.pop() of object 1 failed: KeyError: 1 (and 1 more after it); "
        )


@pytest.mark.timeout(60)
def test_interrupted_while_sending(manager: Any) -> None:
    """The only connection is closed at once, and all objects go: `post` sets no `interrupted`."""
    d, lock, census = manager.dict(a=1), manager.Lock(), manager.Census()
    lock.acquire()
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            raise Interrupt

    sent = 0
    seen = -1

    def stuck() -> bool:
        nonlocal seen
        seen, last = sent, seen
        return seen == last and seen > 0

    oneway(lock).acquire()
    with signals_when(stuck, 1, interrupt), pytest.raises(Interrupt):
        while True:
            oneway(d).get("a", b"x" * 10_000)
            sent += 1
    assert d["a"] == 1
    del census


def test_result_that_is_dropped_is_not_dropped_on_the_loop(manager: Any) -> None:
    """Its destructor is a user's (rule 2 of the architecture)."""
    marking, q = manager.Marking(), manager.Queue()
    q.put(Item())
    gc.collect()
    marking.begin()
    in_thread(lambda: (oneway(q).get(), q.qsize()))
    poll(marking.ended, "the item is gone")
    assert "loop" not in marking.ended()


def test_failure_that_nobody_asks_for_is_not_dropped_on_the_loop(manager: Any) -> None:
    """With its connection goes `Conn.failure`, and with that the frames of the failed call."""
    marking = manager.Marking()
    marking.begin()
    in_thread(lambda: oneway(marking).fail())
    poll(marking.ended, "the error is gone")
    assert "loop" not in marking.ended()


def test_failure_does_not_keep_what_the_call_was_given(manager: Any) -> None:
    """Its traceback does."""
    marking = manager.Marking()
    marking.begin()

    def client() -> None:
        oneway(marking).fail_with(Item())
        gc.collect()
        poll(lambda: in_thread(marking.ended), "the argument is gone")

    try:
        in_thread(client, timeout=2 * DEADLINE)
    finally:
        with contextlib.suppress(OnewayError):
            marking.ended()


def note_and_end(address: str) -> None:
    manager = FailingManager(address, KEY)
    manager.connect()
    journal = manager.TheJournal()
    for i in range(50):
        oneway(journal).note(i)


def test_process_that_ends_in_order_waits_for_its_calls(manager: Any) -> None:
    with Script(note_and_end, manager.address) as script:
        assert script.process.wait(DEADLINE) == 0
    assert len(manager.TheJournal().all()) == 50


def test_proxy_on_its_way_that_another_thread_drops(manager: Any) -> None:
    """The release overtakes the call: it goes over another connection."""
    outer, inner = manager.list(), manager.list([5])
    journal, gate = manager.Journal(), manager.Gate()
    gate.shut()
    box, sent = [inner], threading.Event()
    del inner

    def client() -> None:
        oneway(journal).await_gate()
        oneway(outer).append(box[0])
        sent.set()
        assert len(outer) == 1

    with ThreadPoolExecutor(1) as other:
        future = other.submit(client)
        assert sent.wait(DEADLINE)
        box.clear()
        manager._number_of_objects()
        gate.open()
        future.result(DEADLINE)


def test_stock_server_and_an_argument_that_cannot_be_pickled(stock_manager: Any) -> None:
    """`ClientSession.post` has taken the failures known so far, and drops them."""
    d = stock_manager.dict()
    oneway(d).pop("first")
    with pytest.raises(TypeError):
        oneway(d).get(threading.Lock())
    oneway(d).pop("second")
    error = failure_of(len, d)
    assert (error.failed, cause_of(error).args) == (2, ("first",))


def test_stock_server_and_an_error_that_cannot_be_unpickled(stock_manager: Any) -> None:
    """It is raised by the one-way call itself, and the failures before are forgotten."""
    journal = stock_manager.Journal()
    oneway(journal).fail("before")
    oneway(journal).fail_unloadable()
    oneway(journal).fail("after")
    error = failure_of(journal.all)
    assert (error.failed, cause_of(error).args) == (3, ("before",))


def test_failures_are_counted_where_the_first_cannot_be_unpickled(manager: Any) -> None:
    """`with_failure` says 1."""
    journal = manager.Journal()
    oneway(journal).fail_unloadable()
    oneway(journal).fail("another")
    oneway(journal).fail("another")
    error = failure_of(journal.all)
    assert type(cause_of(error)) is TypeError
    assert error.failed == 3


def test_error_that_holds_a_proxy(manager: Any) -> None:
    """Nothing holds the entry until the client has read it, as `in_transit` does of replies."""
    d, inner = manager.dict(), manager.list([1])
    oneway(d)[inner]
    del inner
    cause = cause_of(failure_of(d.get, 1))
    assert type(cause) is KeyError
    assert cause.args[0][0] == 1


class Retiring:
    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def __reduce__(self) -> Any:
        self.manager.shutdown()
        return int, (1,)


def test_pipeline_over_a_connection_that_was_closed_meanwhile() -> None:
    """What is raised is the private _StaleConnection, not what it stands for."""
    manager = FailingManager()
    manager.start()
    d = manager.dict()
    pipe = manager.pipeline()
    pipe(d).get(Retiring(manager))
    with pytest.raises((OSError, EOFError)):
        pipe.execute()


def test_pipeline_with_a_result_that_cannot_be_unpickled(manager: Any) -> None:
    """One such takes all results with it, and the references of the proxies among them."""
    box, d = manager.Box(), manager.dict(a=1)
    pipe = manager.pipeline(errors="return")
    pipe(d).__iter__()
    pipe(box).unreadable()
    pipe(d).get("a")
    try:
        results = pipe.execute()
    except ZeroDivisionError as error:
        results = [error]
    assert manager._number_of_objects() == 2 + (len(results) == 3)
    assert [type(result) for result in results[1:]] == [ZeroDivisionError, int]


def test_recorder_does_not_swallow_attributes(manager: Any) -> None:
    """``oneway(value).value = 7`` sets an attribute of the Recorder, and says nothing."""
    value, namespace = manager.Value("i", 1), manager.Namespace(x=1)
    with contextlib.suppress(AttributeError):
        oneway(value).value = 7
        assert value.value == 7
    with contextlib.suppress(AttributeError):
        oneway(namespace).x = 7
        assert namespace.x == 7


def test_recorder_records_methods_that_every_object_has(manager: Any) -> None:
    """``__setattr__``, ``__str__``, ``__le__``: those of the Recorder itself are found."""
    namespace = manager.Namespace(x=1)
    with manager.pipeline() as pipe:
        pipe(namespace).__setattr__("x", 2)
        pipe(namespace).__getattribute__("x")
        pipe(manager.list([1])).__str__()
    assert pipe.results == [None, 2, "[1]"]


class AddingServer(TableServer):
    public: ClassVar[list[str]] = [*TableServer.public, "add_first"]

    def add_first(self, c: Any) -> None:
        self.table.add(self.stashed[0].obj, {"__len__"}, None, False)


class AddingManager(FailingManager):
    _Server = AddingServer


def test_adding_over_an_entry_that_was_replaced() -> None:
    """`Table.add` replaces an entry without `forget_recent`: freed memory is used."""
    with AddingManager(authkey=KEY) as manager, FastPeer(manager.address) as peer:
        handle = peer.create("list", [1])
        told(peer, "stash", f"{handle:x}")
        told(peer, "put", f"{handle:x}", [1, 2])
        assert peer.method(handle, "__len__").payload == 2
        told(peer, "add_first")
        for _ in range(20):
            peer.create("list", [1] * 50)
            assert peer.method(handle, "__len__").payload == 1


def test_every_method_of_our_proxies_has_a_number() -> None:
    """`fromkeys`, which a dict's proxy of CPython 3.14 exposes as well; nobody calls the other."""
    kinds = [kind for kind in vars(managers).values() if isinstance(kind, type)]
    exposed = {name for kind in kinds for name in getattr(kind, "_exposed_", ())}
    assert exposed - set(METHODS) == {"__class_getitem__"}


def test_failures_of_a_peer_that_has_left(manager: OnewayManager) -> None:
    """A thread serves what the peer had sent, and nobody is left to be told of a failure."""
    journal, gate = manager.Journal(), manager.Gate()
    gate.shut()
    with FastPeer(manager.address) as peer:
        peer.create("list")
        objects = manager._number_of_objects()
        calls = b""
        for name, args, flags in [
            ("await_gate", (), 0),
            ("fail", ("on purpose",), ONEWAY),
            ("note", ("first",), 0),
            ("note", ("last",), 0),
        ]:
            body = b"".join(map(codec.dumps, (name, args, None)))
            handle = int(journal._token.id, 16)
            calls += HEADER.pack(len(body), handle, 9, 0, OP_CALL, flags) + body
        peer.sock.sendall(calls)  # at once: replies to a peer that has left cannot be sent
    settle(manager, objects - 1)
    gate.open()
    poll(lambda: journal.all() == ["first", "last"], "its calls are served")
