"""Locks and events by memory do what they do by the server, and what those of `threading` do."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    RawPeer,
    Script,
    in_thread,
    kill,
    locally,
    poll,
    say,
    sockets_to,
    stopped,
)

import fastmgr
from fastmgr import OnewayError, managers, oneway
from fastmgr.kinds import events, locks
from fastmgr.managers import AcquirerProxy, CounterProxy, EventProxy, RemoteError, Token, ValueProxy

pytestmark = pytest.mark.timeout(90)

LOCKS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore"]
MANY = [0, 1, 2, 64, 65, 130, 1000]


class Noting(CounterProxy):
    """A user's proxy that wants to see its calls."""

    seen: ClassVar[list[str]] = []

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = None) -> Any:
        self.seen.append(methodname)
        return super()._callmethod(methodname, args, kwds or {})


class Counting(locks.Lock):
    """A lock of a user's, in the server."""

    taken = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        type(self).taken += 1
        return super().acquire(blocking, timeout)

    def count(self) -> int:
        return self.taken


class CountingProxy(AcquirerProxy):
    """Its proxy."""

    _exposed_ = (*AcquirerProxy._exposed_, "count")

    def count(self) -> int:
        return self._callmethod("count")


class CellsManager(ProbeManager):
    """With proxies and exposed methods of a user's."""


CellsManager.register("Noting", managers.SyncManager._registry["Counter"][0], Noting)
CellsManager.register("NoRelease", locks.Lock, AcquirerProxy, exposed=("acquire", "locked"))
CellsManager.register("NoAcquire", locks.Lock, AcquirerProxy, exposed=("release", "locked"))
CellsManager.register("NoLook", events.Event, EventProxy, exposed=("set", "clear"))
CellsManager.register("Counting", Counting, CountingProxy)

MANAGER = CellsManager


@pytest.fixture(params=["memory", "server", "threading"])
def source(request: pytest.FixtureRequest, manager: Any, off_manager: Any) -> Any:
    """What locks are made by: two sorts of managers, or `threading` itself."""
    return {"memory": manager, "server": off_manager, "threading": threading}[request.param]


@pytest.fixture(params=["memory", "server"])
def either(request: pytest.FixtureRequest, manager: Any, off_manager: Any) -> Any:
    return {"memory": manager, "server": off_manager}[request.param]


class Other:
    """Another thread, which does what it is told."""

    def __enter__(self) -> Other:
        self.tasks: list[Any] = []
        self.ready = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self) -> None:
        while True:
            assert self.ready.acquire(timeout=DEADLINE)
            function, outcome, done = self.tasks.pop(0)
            if function is None:
                return
            try:
                outcome.append((None, function()))
            except Exception as error:
                outcome.append((error, None))
            done.set()

    def start(self, function: Callable[[], Any]) -> Callable[[], Any]:
        outcome: list[Any] = []
        done = threading.Event()
        self.tasks.append((function, outcome, done))
        self.ready.release()

        def result() -> Any:
            assert done.wait(DEADLINE), "the other thread does not go on"
            error, value = outcome[0]
            if error is not None:
                raise error
            return value

        return result

    def __call__(self, function: Callable[[], Any]) -> Any:
        return self.start(function)()

    def __exit__(self, *_: object) -> None:
        self.tasks.append((None, None, None))
        self.ready.release()
        self.thread.join(DEADLINE)


@pytest.fixture
def other() -> Iterator[Other]:
    with Other() as other:
        yield other


# As those of threading


@pytest.mark.parametrize("kind", LOCKS)
def test_taking_and_giving_back(source: Any, kind: str, other: Other) -> None:
    lock = getattr(source, kind)()
    for _ in range(3):
        assert lock.acquire() is True
        assert other(lambda: lock.acquire(False)) is False
        assert other(lambda: lock.acquire(True, 0.001)) is False
        assert other(lambda: lock.acquire(timeout=0.001)) is False
        assert other(lambda: lock.acquire(timeout=0)) is False
        assert lock.release() is None
        assert other(lambda: lock.acquire(False)) is True
        assert lock.acquire(False) is False
        assert other(lock.release) is None
        with lock as taken:
            assert taken is True
            assert other(lambda: lock.acquire(blocking=False)) is False
        assert lock.acquire(True, 5) is True
        lock.release()


@pytest.mark.parametrize(("kind", "error"), [
    ("Lock", RuntimeError), ("RLock", RuntimeError), ("BoundedSemaphore", ValueError),
])  # fmt: skip
def test_giving_back_what_nobody_has(source: Any, kind: str, error: type[Exception]) -> None:
    lock = getattr(source, kind)()
    for _ in range(2):
        with pytest.raises(error):
            lock.release()
        assert lock.acquire(False) is True
        lock.release()
    with pytest.raises(error), lock:
        lock.release()


def test_an_unlocked_lock_is_said_to_be(either: Any) -> None:
    for kind in LOCKS:
        lock = getattr(either, kind)()
        assert lock.locked() is False
        lock.acquire()
        assert lock.locked() is True
        lock.release()
        assert lock.locked() is False
        assert lock.owner_died is False
        assert lock.consistent() is None


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore"])
def test_anybody_may_give_back(source: Any, kind: str, other: Other) -> None:
    lock = getattr(source, kind)()
    lock.acquire()
    other(lock.release)
    assert lock.acquire(False) is True
    assert other(lambda: lock.acquire(False)) is False


def test_an_rlock_is_its_threads(source: Any, other: Other) -> None:
    lock = source.RLock()
    for depth in range(1, 4):
        for _ in range(depth):
            assert lock.acquire(False) is True
        for _ in range(depth):
            assert other(lambda: lock.acquire(False)) is False
            with pytest.raises(RuntimeError):
                other(lock.release)
            lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        assert other(lambda: lock.acquire(False)) is True
        assert lock.acquire(False) is False
        with pytest.raises(RuntimeError):
            lock.release()
        other(lock.release)


def test_an_rlock_by_both_ways(manager: Any, other: Other) -> None:
    """The owner is the same by memory and by the server."""
    lock = manager.RLock()
    for first, second in [(lock.acquire, "acquire"), (lambda: lock._callmethod("acquire"), "")]:
        assert first()
        assert lock._callmethod("acquire") is True
        assert lock.acquire() is True
        lock._callmethod("release")
        lock.release()
        assert other(lambda: lock.acquire(False)) is False
        assert other(lambda: lock._callmethod("acquire", (False,))) is False
        (lock.release if second else lambda: lock._callmethod("release"))()
        assert lock.locked() is False


@pytest.mark.parametrize("permits", MANY)
@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits(source: Any, kind: str, permits: int, other: Other) -> None:
    semaphore = getattr(source, kind)(permits)
    taken = [semaphore.acquire(False) for _ in range(permits)]
    assert taken == [True] * permits
    assert semaphore.acquire(False) is False
    assert other(lambda: semaphore.acquire(True, 0.001)) is False
    for turn in range(permits):
        (semaphore.release if turn % 2 else lambda: other(semaphore.release))()
    if kind == "BoundedSemaphore":
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()
    else:
        semaphore.release()
        permits += 1
    assert sum(semaphore.acquire(False) for _ in range(permits + 2)) == permits


@pytest.mark.parametrize("permits", [0, 1, 64, 65])
def test_permits_by_both_ways(manager: Any, permits: int) -> None:
    semaphore = manager.Semaphore(permits)
    ways = [
        (lambda: semaphore.acquire(False), semaphore.release),
        (
            lambda: semaphore._callmethod("acquire", (False,)),
            lambda: semaphore._callmethod("release"),
        ),
    ]
    for take, _ in ways:
        for _, give in ways:
            assert [take() for _ in range(permits)] == [True] * permits
            assert [acquire() for acquire, _ in ways] == [False, False]
            assert semaphore.locked() is True
            for _ in range(permits):
                give()
            assert semaphore.locked() is (permits == 0)


def test_wrong_arguments_are_errors(source: Any) -> None:
    for kind in LOCKS:
        lock = getattr(source, kind)()
        with pytest.raises(ValueError):
            lock.acquire(False, 1)
        if kind in ("Lock", "RLock"):
            with pytest.raises(TypeError):
                lock.acquire(True, "a")
            with pytest.raises(ValueError):
                lock.acquire(True, -2)
            with pytest.raises(OverflowError):
                lock.acquire(True, 1e20)
            assert lock.acquire(True, -1) is True
        else:
            assert lock.acquire(True, -2) is True
        lock.release()
    with pytest.raises((ValueError, RemoteError), match="must be >= 0"):
        source.Semaphore(-1)


def test_events(source: Any, other: Other) -> None:
    event = source.Event()
    for _ in range(3):
        assert event.is_set() is False
        assert event.wait(0.001) is False
        waiting = other.start(lambda: event.wait(DEADLINE))
        event.set()
        assert waiting() is True
        assert (event.is_set(), event.wait(), other(event.is_set)) == (True, True, True)
        event.clear()


calls = st.lists(
    st.tuples(
        st.booleans(),  # whether the other thread
        st.booleans(),  # whether by the server
        st.sampled_from(["acquire", "acquire", "timed", "release", "release"]),
    ),
    max_size=25,
)
makers = st.one_of(
    st.sampled_from([("Lock",), ("RLock",)]),
    st.tuples(
        st.sampled_from(["Semaphore", "BoundedSemaphore"]), st.sampled_from([0, 1, 2, 3, 65])
    ),
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(makers, calls)
@example(("Semaphore", 0), [(False, False, "release"), (True, False, "acquire")])
@example(("RLock",), [(True, False, "acquire"), (True, True, "release"), (False, True, "acquire")])
def test_locks_as_those_of_threading(
    manager: Any, other: Other, maker: tuple[Any, ...], said: list[tuple[bool, bool, str]]
) -> None:
    """The same calls by two threads, by memory and by the server, mean the same."""
    kind, *args = maker
    shared, model = getattr(manager, kind)(*args), getattr(threading, kind)(*args)

    def outcome(lock: Any, name: str, by_server: bool) -> Any:
        arguments = {"acquire": (False,), "timed": (True, 0.0), "release": ()}[name]
        name = "acquire" if name == "timed" else name
        try:
            if by_server:
                return lock._callmethod(name, arguments)
            return getattr(lock, name)(*arguments)
        except Exception as error:
            return type(error)

    for others, by_server, name in said:
        run = other if others else lambda function: function()
        expected = run(lambda: outcome(model, name, False))  # noqa: B023
        assert run(lambda: outcome(shared, name, by_server)) == expected  # noqa: B023


# By memory alone


def test_locks_need_no_server(manager: Any) -> None:
    locks = [getattr(manager, kind)() for kind in LOCKS]
    event = manager.Event()
    event.set()

    def use() -> Any:
        for lock in locks:
            for _ in range(100):
                assert lock.acquire() is True
                lock.release()
                with lock:
                    pass
        assert locks[0].acquire() and locks[0].acquire(False) is False and locks[0].locked()
        return event.is_set()

    for lock in locks:
        lock.acquire()
        lock.release()
    event.is_set()
    assert locally(manager, use) is True


def test_a_waiter_is_served_before_who_comes_later(manager: Any) -> None:
    """Where somebody waits a lock is handed on, not taken by whoever is quick."""
    for kind in LOCKS:
        lock = getattr(manager, kind)()
        with Other() as first, Other() as second:
            lock.acquire()
            order: list[int] = []

            def take(lock: Any = lock, order: list[int] = order, mark: int = 0) -> None:
                lock.acquire()
                order.append(mark)
                lock.release()

            results = []
            for mark, thread in enumerate((first, second)):
                done = threading.Event()

                def waiting(mark: int = mark, done: Any = done) -> None:
                    done.set()
                    take(mark=mark)

                results.append(thread.start(waiting))
                assert done.wait(DEADLINE)
                poll(
                    lambda lock=lock, mark=mark: waiters(manager, lock) > mark,
                    "the thread waits in the server",
                )
            lock.release()
            for result in results:
                result()
            assert order == [0, 1]


class Peeking:
    """Looks into the server."""

    def waiters(self, ident: str) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sum(
            getattr(conn, "waiter", None) is not None for conn in server._engine.loop.conns.values()
        )


CellsManager.register("Peeking", Peeking)


def waiters(manager: Any, lock: Any) -> int:
    return manager.Peeking().waiters(lock._token.id)


def contend(address: Any, idents: dict[str, tuple[str, str]], rounds: int, off: bool) -> int:
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    for kind, (lock, counter) in idents.items():
        guard = AcquirerProxy(Token(kind, address, lock), "pickle", authkey=KEY)
        value = ValueProxy(Token("Value", address, counter), "pickle", authkey=KEY)
        say("ready")
        sys.stdin.readline()  # all begin at once with each kind
        for _ in range(rounds):
            with guard:
                value.set(value.get() + 1)
    return rounds


def test_processes_exclude_each_other(manager: Any) -> None:
    shared = {kind: (getattr(manager, kind)(), manager.Value("i", 0)) for kind in LOCKS}
    idents = {kind: [proxy._token.id for proxy in pair] for kind, pair in shared.items()}
    rounds = 200
    with contextlib.ExitStack() as stack:
        scripts = [
            stack.enter_context(Script(contend, manager.address, idents, rounds, off))
            for off in (False, False, True)
        ]
        for lock, value in shared.values():
            assert [script.line(60) for script in scripts] == ["ready"] * 3
            for script in scripts:
                script.tell()
            for _ in range(rounds):
                with lock:
                    value.set(value.get() + 1)
        assert [script.line(60) for script in scripts] == [rounds] * 3
    for kind, (lock, value) in shared.items():
        assert (kind, value.get(), lock.locked()) == (kind, 4 * rounds, False)


def hold(address: Any, idents: dict[str, str], how: str, off: bool) -> None:
    if off:
        os.environ["FASTMGR_ARENA"] = "off"

    def take() -> list[AcquirerProxy]:
        locks = [
            AcquirerProxy(Token(kind, address, ident), "pickle", authkey=KEY)
            for kind, ident in idents.items()
        ]
        for lock in locks:
            lock.acquire()
        return locks if how == "has the proxies" else []

    kept = in_thread(take) if how == "took them in a thread" else take()
    say("held")
    threading.Event().wait()
    del kept


@pytest.mark.parametrize("off", [False, True], ids=["here", "by calls"])
@pytest.mark.parametrize("how", ["has the proxies", "has no proxy", "took them in a thread"])
def test_what_a_killed_process_held_is_handed_on(manager: Any, how: str, off: bool) -> None:
    locks = {kind: getattr(manager, kind)() for kind in LOCKS}
    idents = {kind: lock._token.id for kind, lock in locks.items()}
    with Script(hold, manager.address, idents, how, off) as script:
        assert script.line() == "held"
        for lock in locks.values():
            assert lock.acquire(False) is False
            assert lock.owner_died is False
        kill(script.pid)
    for kind, lock in locks.items():
        assert lock.acquire(True, DEADLINE) is True, kind
        assert lock.owner_died is True, kind
        lock.consistent()
        assert lock.owner_died is False, kind
        lock.release()


def give_back(address: Any, idents: dict[str, str]) -> None:
    def connections() -> int:
        return len(list(sockets_to(address)))

    for kind, ident in idents.items():
        lock = AcquirerProxy(Token(kind, address, ident), "pickle", authkey=KEY)
        with lock:
            lock.acquire(False)
        before = connections()
        del lock
        if kind == "RLock":  # it is still held once
            say(connections() == before == 1)
            lock = AcquirerProxy(Token(kind, address, ident), "pickle", authkey=KEY)
            lock.release()
            del lock
        say(connections())


def test_a_process_that_has_nothing_more_has_no_connection(manager: Any) -> None:
    locks = {kind: getattr(manager, kind)() for kind in LOCKS}
    idents = {kind: lock._token.id for kind, lock in locks.items()}
    with Script(give_back, manager.address, idents) as script:
        for kind in LOCKS:
            if kind == "RLock":
                assert script.line() is True
            assert script.line() == 0, kind


# Order, subclasses, exposed methods


def test_one_way_calls_are_served_first(manager: Any) -> None:
    for kind in LOCKS:
        lock = getattr(manager, kind)()
        for _ in range(100):
            assert lock.acquire(False) is True
            oneway(lock).release()
            assert lock.acquire(False) is True
            lock.release()
    event = manager.Event()
    for _ in range(100):
        oneway(event).set()
        assert event.is_set() is True
        oneway(event).clear()
        assert event.is_set() is False


def test_a_one_way_failure_shows_with_the_next_call(manager: Any) -> None:
    lock, counter = manager.Lock(), manager.Counter()
    counter.incr(), lock.locked()
    for call in (counter.get, lock.acquire, lock.locked, manager.Event().is_set):
        oneway(lock).release()
        with pytest.raises(OnewayError) as raised:
            call()
        assert type(raised.value.__cause__) is RuntimeError
        counter.get()


def test_one_way_calls_of_another_manager_do_not_matter(manager: Any) -> None:
    with ProbeManager(authkey=KEY) as second:
        counter, slow = second.Counter(), manager.Sleeper()
        counter.incr()
        oneway(slow).slow(0.0, 1)
        with stopped(second._process.pid):
            assert [counter.incr() for _ in range(10)][-1] == 11
        assert slow.echo(1) == 1


def test_a_users_proxy_sees_every_call(manager: Any) -> None:
    Noting.seen.clear()
    counter = manager.Noting(5)
    counter.incr()
    counter.decr(2)
    counter.get()
    counter.exchange(1)
    counter.compare_exchange(1, 2)
    assert Noting.seen == ["incr", "decr", "get", "exchange", "compare_exchange"]
    counter.set(7)
    assert (counter.value, Noting.seen[5:]) == (7, [*Noting.seen[5:6], "get"])


def test_a_users_lock_in_the_server_is_asked(manager: Any) -> None:
    lock = manager.Counting()
    for _ in range(3):
        assert lock.acquire() is True
        lock.release()
    assert lock.count() == 3


def test_what_is_not_exposed_is_not_done(manager: Any) -> None:
    lock = manager.NoRelease()
    assert lock.acquire() is True
    with pytest.raises(RemoteError):
        lock.release()
    assert lock.locked() is True
    lock = manager.NoAcquire()
    with pytest.raises(RemoteError):
        lock.acquire()
    with pytest.raises(RemoteError), lock:
        pass
    assert lock.locked() is False
    event = manager.NoLook()
    event.set()
    with pytest.raises(RemoteError):
        event.is_set()


# Proxies that come and go


def test_a_proxy_that_holds_nothing_asks_the_server(manager: Any) -> None:
    counter, lock = manager.Counter(), manager.Lock()
    others = [
        CounterProxy(counter._token, "pickle", authkey=KEY),
        AcquirerProxy(lock._token, "pickle", authkey=KEY),
    ]
    counter.incr(), lock.acquire()
    counter._close()
    lock._close()
    assert (counter.incr(), lock.acquire(False), lock.locked()) == (2, False, True)
    lock.release()
    del others
    poll(lambda: gone(counter.incr) and gone(lock.acquire), "nobody holds them")


def gone(call: Callable[[], Any]) -> bool:
    try:
        call()
    except RemoteError:
        return True
    return False


def test_unpickled_proxies(manager: Any) -> None:
    for proxy in (manager.Counter(1), manager.RLock(), manager.Value("i", 2), manager.Event()):
        again = pickle.loads(pickle.dumps(proxy))
        assert type(again) is type(proxy)
        assert str(again) == str(proxy)
        del proxy
        if isinstance(again, CounterProxy):
            assert again.incr() == 2
        elif isinstance(again, AcquirerProxy):
            assert again.acquire() is True and again.acquire(False) is True
            again.release(), again.release()
            with pytest.raises(RuntimeError):
                again.release()


def test_a_proxy_without_a_reference(manager: Any) -> None:
    counter = manager.Counter(1)
    bare = CounterProxy(counter._token, "pickle", authkey=KEY, incref=False)
    assert (bare.incr(), counter.incr()) == (2, 3)
    del counter
    poll(lambda: gone(bare.incr), "nobody holds it")


def work_in_child(counter: Any, lock: Any, items: Any, end: Any) -> None:
    with lock:
        items[0] += 1
        end.send([counter.incr(), lock.acquire(False), items[0]])
        lock.release()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing(manager: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    counter, lock, items = manager.Counter(), manager.RLock(), manager.Array("i", [0])
    counter.incr()
    with lock:
        items[0] = 5
    ours, theirs = context.Pipe()
    child = context.Process(target=work_in_child, args=(counter, lock, items, theirs))
    child.start()
    theirs.close()
    assert ours.poll(DEADLINE)
    assert ours.recv() == [2, True, 6]
    child.join(DEADLINE)
    assert child.exitcode == 0
    assert (counter.incr(), items[0], lock.locked()) == (3, 6, False)
    ours.close()


def test_a_stock_client_shares_the_lock(manager: Any) -> None:
    lock = manager.Lock()
    with RawPeer(manager.address) as raw:
        raw.login(KEY)
        raw.call(None, "accept_connection", "by hand")
        assert lock.acquire() is True
        assert raw.call(lock._token.id, "acquire", False) == ("#RETURN", False)
        assert raw.call(lock._token.id, "release") == ("#RETURN", None)
        assert raw.call(lock._token.id, "acquire", False) == ("#RETURN", True)
        assert lock.acquire(False) is False
        assert lock.acquire(True, 0.001) is False
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(lock.acquire(True, DEADLINE)))
        thread.start()
        poll(lambda: waiters(manager, lock) == 1, "the thread waits")
        assert raw.call(lock._token.id, "release") == ("#RETURN", None)
        thread.join(DEADLINE)
        assert waiting == [True] and lock.locked() is True


def test_a_timeout_is_kept_while_the_lock_is_held_by_memory(manager: Any, other: Other) -> None:
    for kind in LOCKS:
        lock = getattr(manager, kind)()
        lock.acquire()
        begun = time.monotonic()
        assert other(lambda: lock.acquire(True, 0.05)) is False  # noqa: B023
        assert time.monotonic() - begun >= 0.05
        lock.release()
        # The one who has given up is not in the way.
        assert lock.acquire(False) is True
        lock.release()
        assert in_thread(lock.acquire, False) is True


def test_cells_are_there_for_all_who_ask() -> None:
    assert fastmgr.SyncManager._registry["Counter"][3] is CounterProxy
