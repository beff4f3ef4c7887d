"""Handlers of signals that raise or make calls of their own, at any moment of a call."""

from __future__ import annotations

import builtins
import contextlib
import gc
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import managers as stdlib
from multiprocessing.connection import Client
from types import FrameType
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Tracked,
    call_in_subprocess,
    in_thread,
    poll,
    settle,
    sockets_to,
    stopped,
)
from support.managers import references
from support.processes import in_child
from support.signals import Interrupt, signals_when

from fastmgr import SyncManager, oneway
from fastmgr.client.sessions import retire_sessions
from fastmgr.managers import RemoteError, dispatch


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Ctrl-C again and again until the call has noticed."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_interrupted_call_leaves_nothing_out_of_step(manager: ProbeManager) -> None:
    shared = manager.Queue()
    other = manager.list(["mine"])
    for i in range(5):
        with pytest.raises(KeyboardInterrupt), interrupting():
            shared.get()
        # What the server still answers to the interrupted call is nobody's answer.
        assert other[0] == "mine"
        assert other.count(i) == 0
    assert references(manager).keys() == {shared._id, other._id}


def test_an_interrupted_thread_still_owns_its_rlock(manager: ProbeManager) -> None:
    """The thread's next connection is a new one; the thread is the same."""
    lock = manager.RLock()
    queue = manager.Queue()
    with lock, lock:
        with pytest.raises(KeyboardInterrupt), interrupting():
            queue.get()
        assert queue.empty()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lock.acquire, False).result(DEADLINE) is False
        lock._callmethod("acquire")
        lock._callmethod("release")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, False).result(DEADLINE) is True


def test_interrupted_by_another_thread(manager: ProbeManager) -> None:
    event = manager.Event()
    shared = manager.dict(a=1)
    kill = (threading.get_ident(), signal.SIGINT)
    timer = threading.Timer(0.05, signal.pthread_kill, kill)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            event.wait()
    finally:
        timer.join(DEADLINE)
        signal.signal(signal.SIGINT, before)
    assert shared["a"] == 1
    assert event.is_set() is False


@pytest.fixture(params=["fast", "stock"])
def either(request: pytest.FixtureRequest) -> Iterator[SyncManager]:
    """A manager of ours, or one of a stock server."""
    if request.param == "fast":
        yield request.getfixturevalue("manager")
        return
    with stdlib.SyncManager(authkey=KEY) as stock:
        manager = SyncManager(stock.address, KEY)
        manager.connect()
        yield manager
        retire_sessions(stock.address)


@contextlib.contextmanager
def alarmed(*handlers: Callable[[], object]) -> Iterator[list[object]]:
    """Each handler is called a moment after the one before has begun; gives what they return."""
    returned: list[object] = []
    left = list(handlers)

    def handler(_number: int, _frame: FrameType | None) -> None:
        mine = left.pop(0)
        signal.setitimer(signal.ITIMER_REAL, 0.05 if left else 0)
        returned.append(mine())

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        yield returned
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("where", ["here", "in another thread"])
def test_handler_that_calls(either: SyncManager, where: str) -> None:
    """A signal's handler uses a proxy while a call of its thread is under way."""
    shared = either.Queue()

    def put() -> Any:
        if where == "here":
            return shared.put("from the handler")
        return in_thread(shared.put, "from the handler")

    with alarmed(put) as returned:
        assert shared.get() == "from the handler"
    assert returned == [None]


def test_handlers_within_a_handler(either: SyncManager) -> None:
    """Each call has its own reply, and the thread goes on with the connections it has."""
    outer, middle, inner = either.Queue(), either.Queue(), either.dict(turns=0)
    local = outer._tls.connection

    def first() -> str:
        inner["first"] = middle.get()
        outer.put("for the call")
        return "first"

    def second() -> str:
        inner.update(turns=inner["turns"] + 1)
        middle.put("for the first")
        return "second"

    for turn in range(1, 4):
        with alarmed(first, second) as returned:
            assert outer.get() == "for the call"
        assert returned == ["second", "first"]
        assert inner.copy() == {"first": "for the first", "turns": turn}
    assert outer._tls.connection is local


def test_calls_of_a_handler_share_a_connection(manager: ProbeManager) -> None:
    shared = manager.Queue()
    before = len(list(sockets_to(manager.address)))
    for i in range(5):
        with alarmed(lambda i=i: shared.put(i)):
            assert shared.get() == i
    assert len(list(sockets_to(manager.address))) <= before + 1


def test_handler_that_calls_does_not_overtake(manager: ProbeManager) -> None:
    """What was posted before is served before the thread's next ordinary call."""
    shared, queue = manager.list(), manager.Queue()
    oneway(shared).append("posted")
    with alarmed(lambda: (shared.append("by the handler"), queue.put(None))):
        queue.get()
    oneway(shared).append("posted again")
    shared.append("last")
    found = shared[:]
    assert sorted(found) == ["by the handler", "last", "posted", "posted again"]
    assert found.index("posted") < found.index("posted again") < found.index("last")


def test_handler_that_takes_and_gives_locks(manager: ProbeManager) -> None:
    """It is the thread that it interrupted, to the server."""
    lock, queue = manager.RLock(), manager.Queue()
    lock.acquire()

    def handler() -> bool:
        taken = lock._callmethod("acquire", (False,))
        lock._callmethod("release")
        lock._callmethod("release")
        queue.put(None)
        return taken

    with alarmed(handler) as returned:
        queue.get()
    assert returned == [True]
    assert in_thread(lock.acquire, False) is True


def test_handler_that_shuts_down() -> None:
    """The call it interrupted fails, and soon."""
    with ProbeManager() as manager:
        queue = manager.Queue()
        with alarmed(manager.shutdown), pytest.raises((OSError, EOFError)):
            queue.get()


class Last:
    """Calls when it is collected, wherever that may be."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared
        self.itself = self

    def __del__(self) -> None:
        self.shared.append(self.shared[0])


def test_finalizers_that_call(manager: ProbeManager) -> None:
    """Also where a collection happens to come inside a call of the same thread."""
    shared = manager.list([0])
    nested = manager.dict(a=[[i] for i in range(40)])
    thresholds = gc.get_threshold()
    count = 20
    try:
        for _ in range(count):
            gc.collect()
            Last(shared)
            gc.set_threshold(20, 2, 2)  # more than a call makes, less than its reply holds
            assert nested["a"][39] == [39]
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)

    def collected() -> bool:
        # Another thread may be collecting: then this one collects nothing.
        gc.collect()
        return len(shared) > count

    poll(collected, "all have called")
    assert shared[:] == [0] * (count + 1)


def test_raised_signal_between_calls(manager: ProbeManager) -> None:
    shared = manager.list()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for i in range(50):
            with pytest.raises(KeyboardInterrupt):
                shared.append(i)
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert shared[:] == list(range(50))


def test_references_after_interrupts(manager: ProbeManager) -> None:
    """The interrupted thread's connection goes; its process's references do not."""
    shared = [manager.list([i]) for i in range(3)]
    event = manager.Event()
    with pytest.raises(KeyboardInterrupt), interrupting():
        event.wait()
    gc.collect()
    assert [proxy[0] for proxy in shared] == [0, 1, 2]
    assert references(manager) == {proxy._id: 1 for proxy in [*shared, event]}
    del shared
    settle(manager, 1)


def drop_under_fire(kind: str, count: int, error: str) -> Any:
    """Drop proxies while a signal's handler raises again and again."""
    raised: type[BaseException] = getattr(builtins, error)

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise raised

    unraisable: list[str] = []
    sys.unraisablehook = lambda args: unraisable.append(repr(args.exc_value))
    signal.signal(signal.SIGALRM, handler)
    made: Any = SyncManager if kind == "fast" else stdlib.SyncManager
    with made(authkey=KEY) as server:
        manager = SyncManager(server.address, KEY)
        manager.connect()
        proxies = [manager.list() for _ in range(count)]
        moments = random.Random(11)
        hits = 0

        def drop_all() -> None:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 1e-3))
            while proxies:
                proxies.pop()
            signal.setitimer(signal.ITIMER_REAL, 0)
            [None for _ in range(10)]  # what is pending runs now

        while proxies:
            try:
                drop_all()  # a function: CPython 3.13 has steps of a loop that no `try` covers
            except raised:
                hits += 1
        left = manager._number_of_objects()
        retire_sessions(server.address)
    return hits, unraisable, left


@pytest.mark.parametrize("error", ["SystemExit", "LookupError", "TimeoutError"])
@pytest.mark.parametrize("kind, count", [("fast", 5000), ("stock", 300)])
def test_exceptions_of_handlers_while_proxies_are_dropped(
    kind: str, count: int, error: str
) -> None:
    """They reach the program: nothing is lost, and the process does not end on the spot."""
    hits, unraisable, left = call_in_subprocess(drop_under_fire, kind, count, error)
    assert hits > 3
    assert unraisable == []
    # Of a decref that was interrupted while a stock server was told nobody knows what came of it.
    assert left <= (0 if kind == "fast" else hits / 2)


def drop_in_child_of_thread() -> Any:
    """In the child that a thread forks, drop a proxy; the release raises."""
    from fastmgr.client import stock

    def raises(*_: Any) -> None:
        raise LookupError

    def drop() -> str:
        manager = SyncManager(server.address, KEY)
        manager.connect()
        proxy = manager.list()
        stock.dispatch = raises
        sys.unraisablehook = lambda args: os._exit(3)
        try:
            del proxy
            [None for _ in range(10)]  # what is pending runs now
        except LookupError:
            return "raised"
        return "lost"

    with stdlib.SyncManager(authkey=KEY) as server:
        return in_thread(in_child, drop)


def test_release_in_the_child_that_a_thread_has_forked() -> None:
    """Its main thread is the one that forked: there an error of a handler reaches the program."""
    assert call_in_subprocess(drop_in_child_of_thread) == [0, repr("raised")]


class Slow:
    """Is made, or makes something, once it is told to."""

    begun = made = 0
    gate = threading.Event()

    def __init__(self) -> None:
        Slow.begun += 1
        assert Slow.gate.wait(DEADLINE)
        Slow.made += 1

    def child(self) -> Tracked:
        Slow.__init__(self)
        return Tracked()

    @staticmethod
    def counts() -> tuple[int, int]:
        return Slow.begun, Slow.made

    @staticmethod
    def go_on(go: bool) -> None:
        (Slow.gate.set if go else Slow.gate.clear)()


def the_class() -> type[Slow]:
    return Slow


ProbeManager.register("Slow", Slow, method_to_typeid={"child": "Tracked"})
ProbeManager.register("made", the_class, exposed=("counts", "go_on"))


@pytest.mark.parametrize("what", ["create", "result of a method"])
def test_object_that_was_made_for_an_interrupted_call(manager: ProbeManager, what: str) -> None:
    """Nobody knows of it, so nobody keeps it."""
    slow: Any = manager.made()  # type: ignore[attr-defined]
    slow.go_on(True)
    keep: Any = manager.Slow()  # type: ignore[attr-defined]
    slow.go_on(False)
    begun, made = slow.counts()

    def interrupt() -> None:
        raise Interrupt

    with pytest.raises(Interrupt), signals_when(lambda: slow.counts()[0] > begun, 1, interrupt):
        if what == "create":
            manager.Slow()  # type: ignore[attr-defined]
        else:
            keep.child()
    slow.go_on(True)
    poll(lambda: slow.counts()[1] > made, "it is made")
    settle(manager, 2)


@pytest.mark.parametrize("calls", range(64, 67))
def test_interrupt_as_a_connection_gets_its_mailbox(manager: ProbeManager, calls: int) -> None:
    """It asks for one before its 65th request or so, whatever that is."""
    shared = manager.list([1])
    shared._keeps = False  # each is a request
    shared._connect()
    for _ in range(calls):
        shared.count(1)
    server: int = manager._process.pid
    with stopped(server):
        # The interrupted connection is replaced at once.
        resume = threading.Timer(1, os.kill, (server, signal.SIGCONT))
        resume.start()
        with pytest.raises(KeyboardInterrupt), interrupting():
            shared.count(1)
        resume.join()
    assert shared[:] == [1]


def get_while_dropping(
    queue: Any, dropped: list[Any], get: Callable[[], object], after: Callable[[], object]
) -> None:
    """A handler empties `dropped` while the call waits; then the item comes, and `after` runs.

    The item comes over a connection that is none of the session's: all of those are in use.
    """
    conn = Client(queue._token.address, authkey=queue._authkey)
    dispatch(conn, None, "accept_connection", ("by hand",))

    def handle() -> None:
        dropped.clear()
        dispatch(conn, queue._id, "put", ("an item",))
        after()

    with conn, alarmed(handle):
        assert get() == "an item"


@pytest.mark.parametrize("how", ["call", "pipeline"])
def test_no_python_code_between_a_reply_and_its_return(manager: ProbeManager, how: str) -> None:
    """A handler that raises there would lose an item for good."""
    queue: Any = manager.Queue()
    session = queue._session_of()
    ran: list[str] = []

    def get() -> Any:
        if how == "call":
            return queue._callmethod("get")
        return session.pipeline([queue, "get", (), None])[0][0]

    def note(frame: FrameType, what: str, _: object) -> None:
        if what == "call":
            ran.append(frame.f_code.co_name)

    def get_and_stop() -> Any:
        got = get()
        sys.setprofile(None)
        return got

    get_while_dropping(queue, [manager.list()], get_and_stop, lambda: sys.setprofile(note))
    assert ran == []
    settle(manager, 1)


@pytest.mark.parametrize("moment", range(12))
def test_object_that_is_wanted_again_while_it_is_given_back(
    manager: ProbeManager, moment: int
) -> None:
    """By a finalizer, which runs when the books change."""
    queue = manager.Queue()
    dropped = [manager.list(["kept"])]
    copy = pickle.dumps(dropped[0])
    again: list[Any] = []
    left = moment

    def collecting(phase: str, _info: object) -> None:
        nonlocal left
        if phase == "start" and threading.current_thread() is threading.main_thread():
            left -= 1
            if left == -1:
                with contextlib.suppress(RemoteError):  # it is gone
                    again.append(pickle.loads(copy))

    def begin() -> None:
        gc.callbacks.append(collecting)
        gc.set_threshold(1)

    thresholds = gc.get_threshold()
    try:
        get_while_dropping(queue, dropped, lambda: queue._callmethod("get"), begin)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collecting)
    assert [proxy[:] for proxy in again] in ([], [["kept"]])
    settle(manager, 1 + len(again))
