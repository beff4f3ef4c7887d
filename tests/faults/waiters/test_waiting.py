"""Clients that are killed while they wait, or while others wait for what they hold."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    Probe,
    ProbeManager,
    Script,
    at_rest,
    count_behind_an_acquire,
    in_thread,
    poll,
    say,
)

from fastmgr.link.cutter import Op
from fastmgr.pipeline import Pipeline

pytestmark = pytest.mark.timeout(60)


class Census(Probe):
    """Looks at the waiters from within the server."""

    def waiting(self) -> list[str]:
        """Who waits: the names of processes and threads, sorted."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sorted(
            conn.name
            for conn in list(server._engine.conns.values())
            if conn.waiter is not None and not conn.waiter.finished
        )

    def crowd(self) -> int:
        """How many wait; no names, for speed."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sum(conn.waiter is not None for conn in list(server._engine.conns.values()))

    def looked_at(self, name: str) -> int:
        """How many objects the server will look at when that client dies."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        for conn in list(server._engine.conns.values()):
            if conn.name == name:
                return len(conn.session.parked)
        raise LookupError(name)

    def connections(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return len(server._engine.conns)


class Spinner:
    def spin(self, seconds: float) -> None:
        """Keep the interpreter's lock as busy as it can be."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))


BOARD: dict[str, Any] = {}


def the_board() -> dict[str, Any]:
    """One dict for all clients of a server."""
    return BOARD


class WaiterManager(ProbeManager):
    """With what these tests have in the server."""


WaiterManager.register("Census", Census)
WaiterManager.register("Spinner", Spinner)
WaiterManager.register("the_board", the_board, exposed=("__getitem__", "__setitem__"))


def manager_at(address: Address) -> WaiterManager:
    manager = WaiterManager(
        address=address if isinstance(address, str) else tuple(address), authkey=KEY
    )
    manager.connect()
    return manager


@pytest.fixture(scope="module", params=["default", "poll"])
def shared_manager(request: pytest.FixtureRequest) -> Iterator[WaiterManager]:
    """One whose server uses the poller of the system, and one that makes do with poll()."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "poll":
            patch.setenv("FASTMGR_POLLER", "poll")
        manager = WaiterManager(authkey=KEY)
        manager.start()
    with manager:
        yield manager


@pytest.fixture(scope="module")
def shared_census(shared_manager: WaiterManager) -> Any:
    return shared_manager.Census()


@pytest.fixture
def manager(shared_manager: WaiterManager, shared_census: Any) -> Iterator[WaiterManager]:
    """The module's manager; all who waited in the test are gone with it."""
    yield shared_manager
    poll(lambda: not waiting(shared_census), "nobody waits any more")


@pytest.fixture
def census(shared_census: Any) -> Any:
    return shared_census


def waiting(census: Any) -> list[str]:
    # In a thread of its own: asking a user's class changes how a connection is served.
    return in_thread(census.waiting)


class Worker:
    """A client process that does one thing; it says when it has begun and what came of it."""

    def __init__(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        self.name = name
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=work, args=(theirs, function, *args), name=name, daemon=True
        )
        self.process.start()
        theirs.close()
        assert self.said() == "ready"

    def said(self) -> Any:
        assert self.pipe.poll(DEADLINE), f"{self.name} says nothing"
        return self.pipe.recv()

    def kill(self) -> None:
        assert self.process.is_alive()
        self.process.kill()
        self.process.join(DEADLINE)
        assert self.process.exitcode == -signal.SIGKILL

    def end(self) -> None:
        """Let it end, as it does by itself."""
        self.pipe.send("end")
        self.process.join(DEADLINE)
        assert self.process.exitcode == 0


def work(pipe: Connection, function: Callable[..., Any], *args: Any) -> None:
    pipe.send("ready")
    pipe.send(function(*args))
    pipe.recv()


@pytest.fixture
def start(manager: WaiterManager, census: Any) -> Iterator[Callable[..., Worker]]:
    """Start a client process; with `parks` it is known to wait when it is returned."""
    workers: list[Worker] = []

    def start_one(name: str, function: Callable[..., Any], *args: Any, parks: bool) -> Worker:
        workers.append(Worker(name, function, *args))
        if parks:
            poll(lambda: name in waiting(census), f"{name} waits")
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.process.kill()
        worker.process.join(DEADLINE)
        worker.pipe.close()


# Killed while it waits


def call(obj: Any, name: str, *args: Any) -> Any:
    return getattr(obj, name)(*args)


def pin_and_call(sleeper: Any, obj: Any, name: str, *args: Any) -> Any:
    """With a user's class called before, so that a thread of the server waits for it."""
    sleeper.echo(1)
    return call(obj, name, *args)


def sleep_at(condition: Any) -> Any:
    with condition:
        return condition.wait()


Start = Callable[..., Worker]


@pytest.fixture(params=["parked", "pinned"])
def caller(request: pytest.FixtureRequest, manager: WaiterManager) -> tuple[Any, ...]:
    """How the client that is killed makes its call: what to run, and its first arguments."""
    return (call,) if request.param == "parked" else (pin_and_call, manager.Sleeper())


def test_a_killed_getter_takes_nothing(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue()
    first = start("first", call, q, "get", parks=True)
    doomed = start("doomed", *caller, q, "get", parks=True)
    last = start("last", call, q, "get", parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    q.put(1)
    assert first.said() == 1
    q.put(2)
    assert last.said() == 2
    q.put(3)
    assert q.get(timeout=DEADLINE) == 3


def test_a_killed_putter_puts_nothing(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue(1)
    q.put("full")
    first = start("first", call, q, "put", 1, parks=True)
    doomed = start("doomed", *caller, q, "put", {"never": 1}, parks=True)
    last = start("last", call, q, "put", 2, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    assert [q.get(timeout=DEADLINE) for _ in range(3)] == ["full", 1, 2]
    assert first.said() is last.said() is None
    assert q.empty()
    q.put("room again")
    assert q.get() == "room again"


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_a_killed_acquirer_takes_nothing(
    kind: str, manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    lock = getattr(manager, kind)()
    assert lock.acquire()
    first = start("first", take_and_give, lock, parks=True)
    doomed = start("doomed", *caller, lock, "acquire", parks=True)
    last = start("last", take_and_give, lock, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    lock.release()
    assert first.said() is True
    assert last.said() is True
    assert in_thread(lock.acquire, True, DEADLINE) is True


def take_and_give(lock: Any) -> Any:
    result = lock.acquire()
    lock.release()
    return result


def test_a_killed_sleeper_is_not_notified(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    condition = manager.Condition()
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    with condition:
        condition.notify()
    assert last.said() is True


@pytest.mark.parametrize("name", ["notify", "notify_all"])
def test_a_sleeper_killed_after_it_was_notified_leaves_the_lock(
    manager: WaiterManager, census: Any, start: Start, name: str
) -> None:
    """And its notification to the next."""
    condition = manager.Condition()
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    with condition:
        getattr(condition, name)()  # it waits for the lock now
        doomed.kill()
        poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    assert last.said() is True
    assert in_thread(condition.acquire, True, DEADLINE)


def take_and_count(lock: Any, d: Any, sleeper: Any, way: str) -> None:
    sleeper.echo(1)  # so that a thread of the server serves what follows
    count_behind_an_acquire(lock, d, way)


@pytest.mark.parametrize("way", ["pipeline", "one-way"])
def test_calls_behind_the_acquire_of_a_killed_client_are_not_made(
    manager: WaiterManager, census: Any, start: Start, way: str
) -> None:
    """They were to be made with the lock."""
    lock, d, sleeper = manager.Lock(), manager.dict(), manager.Sleeper()
    before = in_thread(census.connections)
    lock.acquire()
    doomed = start("doomed", take_and_count, lock, d, sleeper, way, parks=True)
    doomed.kill()
    poll(lambda: in_thread(census.connections) <= before, "it is gone")
    assert d.copy() == {}
    lock.release()
    assert lock.acquire(False) is True


def test_a_killed_party_is_not_counted(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    barrier = manager.Barrier(3)
    first = start("first", call, barrier, "wait", parks=True)
    doomed = start("doomed", *caller, barrier, "wait", parks=True)
    assert barrier.n_waiting == 2
    doomed.kill()
    poll(lambda: barrier.n_waiting == 1, "the dead one is not counted")
    assert not barrier.broken
    last = start("last", call, barrier, "wait", parks=True)
    assert barrier.wait() == 2
    assert (first.said(), last.said()) == (0, 1)
    assert barrier.n_waiting == 0


def test_killed_at_an_event_or_in_join(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    event, q = manager.Event(), manager.Queue()
    q.put(1)
    for obj, name, due in ((event, "wait", event.set), (q, "join", q.task_done)):
        doomed = start("doomed", *caller, obj, name, parks=True)
        last = start(f"last to {name}", call, obj, name, parks=True)
        doomed.kill()
        poll(lambda last=last: waiting(census) == [last.name], "the dead one does not wait")
        due()
        assert last.said() is (True if name == "wait" else None)


def put_when_told(orders: Connection, sleeper: Any, q: Any, item: Any) -> None:
    q.qsize()
    if sleeper is not None:
        sleeper.echo(1)
    orders.send("connected")
    orders.recv()
    orders.send("going")
    q.put(item)


@pytest.mark.parametrize("pinned", [False, True], ids=["on the loop", "on a thread"])
def test_an_item_goes_past_one_who_died_a_moment_ago(
    pinned: bool, manager: WaiterManager, start: Start
) -> None:
    """The server learns of the death and of the item at the same time."""
    q, server = manager.Queue(), manager._process.pid
    sleeper = manager.Sleeper() if pinned else None
    for i in range(5):
        orders, theirs = multiprocessing.Pipe()
        putter = start(f"putter {i}", put_when_told, theirs, sleeper, q, i, parks=False)
        assert orders.recv() == "connected"
        doomed = start(f"doomed {i}", call, q, "get", parks=True)
        os.kill(server, signal.SIGSTOP)
        try:
            doomed.kill()
            orders.send("go")
            assert orders.recv() == "going"
            poll(lambda putter=putter: at_rest(putter.process.pid), "the request is on its way")
        finally:
            os.kill(server, signal.SIGCONT)
        assert putter.said() is None
        assert q.get(timeout=DEADLINE) == i
        putter.end()


def call_when_told(orders: Connection, sleeper: Any, obj: Any, name: str) -> None:
    sleeper.echo(1)
    orders.send("connected")
    orders.recv()
    orders.send("going")
    call(obj, name)


def test_who_dies_before_it_is_served_takes_nothing(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    """Its request is there when the server sees that the connection is over."""
    q, lock, sleeper = manager.Queue(), manager.Lock(), manager.Sleeper()
    spinning = threading.Thread(target=manager.Spinner().spin, args=(1.0,), daemon=True)
    pairs = []
    for i in range(10):
        orders, theirs = multiprocessing.Pipe()
        what = [(q, "get"), (lock, "acquire")][i % 2]
        worker = start(f"doomed {i}", call_when_told, theirs, sleeper, *what, parks=False)
        assert orders.recv() == "connected"
        pairs.append((worker, orders))
    # The threads of the server contend, so that now this and now that comes first.
    spinning.start()
    for _, orders in pairs:
        orders.send("go")
    for _, orders in pairs:
        assert orders.recv() == "going"
    for worker, _ in pairs:
        worker.kill()
    spinning.join(DEADLINE)
    poll(lambda: not waiting(census), "nobody waits")
    assert lock.acquire(True, DEADLINE) is True
    q.put("for the living")
    assert q.get(timeout=DEADLINE) == "for the living"


# Killed while it holds


def take(obj: Any, times: int) -> list[bool]:
    return [obj.acquire(False) for _ in range(times)]


HOLDINGS = [("Lock", 1), ("RLock", 3), ("Semaphore", 2), ("BoundedSemaphore", 2), ("Condition", 2)]


def make(manager: WaiterManager, kind: str, times: int) -> Any:
    return getattr(manager, kind)(*[times][: "Semaphore" in kind])


@pytest.mark.parametrize("kind, times", HOLDINGS)
@pytest.mark.parametrize("contended", [False, True], ids=["free", "contended"])
def test_what_a_killed_client_held_is_handed_on(
    kind: str, times: int, contended: bool, manager: WaiterManager, start: Start
) -> None:
    lock = make(manager, kind, times)
    holder = start("holder", take, lock, times, parks=False)
    assert holder.said() == [True] * times
    assert lock.acquire(False) is False
    if contended:
        waiters = [start(f"waiter {i}", take_and_give, lock, parks=True) for i in range(3)]
        holder.kill()
        assert [waiter.said() for waiter in waiters] == [True] * 3
        for waiter in waiters:
            waiter.end()
    else:
        holder.kill()
    # As many as it had, and no more.
    for _ in range(times):
        assert in_thread(lock.acquire, True, DEADLINE) is True
        if "Semaphore" not in kind:
            break
    assert in_thread(lock.acquire, False) is False


def test_a_death_costs_what_the_client_had_to_do_with(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    """And not what there is: the loop would stand still where many die."""
    objects = [manager.Lock() for _ in range(50)] + [manager.Condition() for _ in range(50)]
    for kind in (objects[0], objects[-1]):
        doomed = start("doomed", take, kind, 1, parks=False)
        assert doomed.said() == [True]
        assert in_thread(census.looked_at, "doomed") == 1
        doomed.kill()
        assert in_thread(kind.acquire, True, DEADLINE) is True


def permits(semaphore: Any) -> int:
    count = 0
    while semaphore.acquire(False):
        count += 1
    for _ in range(count):
        semaphore.release()
    return count


@pytest.mark.parametrize("first", ["killed", "released"])
@pytest.mark.parametrize(
    "kind, count",
    [("Semaphore", 1), ("Semaphore", 3), ("Semaphore", 70), ("BoundedSemaphore", 3), ("Lock", 1)],
)
def test_what_another_releases_for_a_killed_client_is_free_once(
    kind: str, count: int, first: str, manager: WaiterManager, census: Any, start: Start
) -> None:
    """A child takes, its parent releases, as the stdlib allows; and the child is killed."""
    semaphore = make(manager, kind, count)
    before = in_thread(census.connections)
    child = start("child", take, semaphore, 1, parks=False)
    assert child.said() == [True]
    if first == "released":
        semaphore.release()
    child.kill()
    poll(lambda: in_thread(census.connections) <= before, "it is gone")
    if first == "killed":
        semaphore.release()
    assert permits(semaphore) == count
    # From here on what is too much is refused, or is one more, as ever.
    if kind == "Semaphore":
        semaphore.release()
        assert permits(semaphore) == count + 1
    else:
        with pytest.raises((ValueError, RuntimeError)):
            semaphore.release()


@pytest.mark.parametrize("kind", ["Semaphore", "Lock"])
def test_a_release_for_a_killed_client_takes_nothing_from_the_next(
    kind: str, manager: WaiterManager, start: Start
) -> None:
    """Who was given the lock at the death is alone with it."""
    lock = make(manager, kind, 1)
    doomed = start("doomed", take, lock, 1, parks=False)
    assert doomed.said() == [True]
    heir = start("heir", call, lock, "acquire", parks=True)
    doomed.kill()
    assert heir.said() is True
    lock.release()  # for the dead one
    assert lock.acquire(False) is False
    lock.release()  # and for its heir
    assert lock.acquire(False) is True


def test_whose_permit_was_released_is_not_guessed(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    """Of two that have one each one is killed, after somebody else has released for one of them."""
    semaphore = manager.Semaphore(2)
    before = in_thread(census.connections)
    takers = [start(f"taker {i}", take, semaphore, 1, parks=False) for i in range(2)]
    for taker in takers:
        assert taker.said() == [True]
    semaphore.release()
    takers[0].kill()
    poll(lambda: in_thread(census.connections) <= before + 1, "it is gone")
    assert permits(semaphore) == 1
    semaphore.release()
    assert permits(semaphore) == 2


def test_one_of_several_holders_is_killed(manager: WaiterManager, start: Start) -> None:
    """Only its own permits come back."""
    semaphore = manager.BoundedSemaphore(5)
    doomed = start("doomed", take, semaphore, 2, parks=False)
    living = start("living", take, semaphore, 2, parks=False)
    assert doomed.said() == living.said() == [True, True]
    assert semaphore.acquire(False) is True
    assert semaphore.acquire(False) is False
    doomed.kill()
    for _ in range(2):
        assert semaphore.acquire(True, DEADLINE) is True
    assert semaphore.acquire(False) is False
    for _ in range(3 + 2 + 2):  # its own, those of the dead one, and of the living one
        semaphore.release()
    with pytest.raises(ValueError, match="too many"):
        semaphore.release()


def test_what_was_given_back_before_is_not_given_twice(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    semaphore, lock = manager.Semaphore(1), manager.Lock()
    for obj in (semaphore, lock):
        doomed = start("doomed", take_and_give, obj, parks=False)
        assert doomed.said() is True
        assert obj.acquire(False) is True
        before = in_thread(census.connections)
        doomed.kill()
        poll(lambda before=before: in_thread(census.connections) < before, "it is gone")
        assert in_thread(obj.acquire, False) is False


@pytest.mark.parametrize("kind, times", HOLDINGS)
def test_a_clean_exit_keeps_it_held(
    kind: str, times: int, manager: WaiterManager, census: Any, start: Start
) -> None:
    """As in the stdlib: the program may have meant it."""
    lock = make(manager, kind, times)
    before = in_thread(census.connections)
    holder = start("holder", take, lock, times, parks=False)
    assert holder.said() == [True] * times
    holder.end()
    poll(lambda: in_thread(census.connections) <= before, "it is gone")
    assert lock.acquire(False) is False


def exit_holding(address: Address) -> None:
    lock = manager_at(address).the_board()["lock"]
    lock.acquire()
    say("locked")
    sys.stdin.read()
    sys.exit(0)


def forget_and_live(address: Address) -> None:
    manager_at(address).the_board()["lock"].acquire()
    gc.collect()  # nothing of the manager or the proxies is left
    say("locked")
    sys.stdin.read()


def test_who_forgets_what_it_holds_still_holds_it(manager: WaiterManager, start: Start) -> None:
    """It lives, and may come back for it."""
    board, lock = manager.the_board(), manager.Lock()
    board["lock"] = lock
    with Script(forget_and_live, manager.address) as script:
        assert script.line() == "locked"
        # For long enough that the server has seen all that there is to see.
        assert lock.acquire(True, 0.3) is False
        script.finish()
    lock.release()


def test_sys_exit_keeps_it_held(manager: WaiterManager, census: Any) -> None:
    board, lock = manager.the_board(), manager.Lock()
    board["lock"] = lock
    before = in_thread(census.connections)
    with Script(exit_holding, manager.address) as script:
        assert script.line() == "locked"
        script.finish()
    poll(lambda: in_thread(census.connections) <= before, "it is gone")
    assert lock.acquire(False) is False
    lock.release()
    assert lock.acquire(False) is True


def hold_and_send_a_lookalike(lock: Any, sleeper: Any) -> None:
    """Hold a lock, and send what nobody reads: a frame that ends as a goodbye does."""
    lock.acquire()
    goodbye = struct.pack("<QQIHB", 0, 1, 0, 0, Op.OP_GOODBYE)
    pipe = Pipeline(sleeper._session_of())
    pipe(sleeper).slow(DEADLINE, "the server's buffer holds this and no more" * 120)
    pipe(sleeper).echo(goodbye)
    pipe.execute()


def test_what_looks_like_a_goodbye_is_none(manager: WaiterManager, start: Start) -> None:
    """A killed client's unread bytes may end in anything."""
    lock, sleeper = manager.Lock(), manager.Sleeper()
    doomed = start("doomed", hold_and_send_a_lookalike, lock, sleeper, parks=False)
    poll(lambda: at_rest(doomed.process.pid), "all is sent")
    assert lock.acquire(False) is False
    doomed.kill()
    assert lock.acquire(True, DEADLINE) is True


def leave_with_a_call_under_way(address: Address, kind: str) -> None:
    """End in order, holding a lock; the connection that says goodbye has a call that waits."""

    def wait() -> None:
        obj = manager_at(address).the_board()[kind]
        if kind == "parked":
            obj.get()
        pipe = Pipeline(obj._session_of())
        pipe(obj).slow(DEADLINE, None)
        pipe(obj).echo(b"much that is not read before the goodbye" * 1000)
        pipe.execute()

    threading.Thread(target=wait, daemon=True).start()
    sys.stdin.readline()
    manager_at(address).the_board()["lock"].acquire()
    say("locked")
    sys.stdin.read()


@pytest.mark.parametrize("kind", ["parked", "on a worker"])
def test_a_goodbye_behind_a_call_that_waits_is_heard(
    kind: str, manager: WaiterManager, census: Any
) -> None:
    """What a process held that ended in order stays held, as in the stdlib."""
    board, lock = manager.the_board(), manager.Lock()
    obj = manager.Queue() if kind == "parked" else manager.Sleeper()
    board["lock"], board[kind] = lock, obj
    before = in_thread(census.sessions)
    with Script(leave_with_a_call_under_way, manager.address, kind) as script:
        poll(lambda: in_thread(census.sessions) > before and at_rest(script.pid), "it waits")
        script.tell()
        assert script.line() == "locked"
        script.finish()
    poll(lambda: in_thread(census.sessions) == before, "the server knows that it is gone")
    assert lock.acquire(False) is False


def take_in_a_thread(lock: Any, event: Any) -> bool:
    result: bool = in_thread(lock.acquire, False)
    event.is_set()
    return result


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_what_a_thread_held_that_has_ended_stays_held(
    kind: str, manager: WaiterManager, start: Start
) -> None:
    """As long as its process lives; then it is handed on."""
    lock = getattr(manager, kind)()
    holder = start("holder", take_in_a_thread, lock, manager.Event(), parks=False)
    assert holder.said() is True
    assert lock.acquire(False) is False
    waiter = start("waiter", take_and_give, lock, parks=True)
    assert holder.process.is_alive()
    holder.kill()
    assert waiter.said() is True


# Storms


def lock_and_count(lock: Any, rlock: Any, semaphore: Any, q: Any, counters: Any, seed: int) -> None:
    """Never ends by itself.  Both counters are one, but for a moment, under the lock."""
    chance = random.Random(seed)
    while True:
        what = chance.randrange(4)
        if what == 0:
            with lock:
                counters["begun"] += 1
                counters["ended"] = counters["begun"]
        elif what == 1:
            with rlock, rlock, rlock:
                pass
        elif what == 2:
            with semaphore:
                pass
        else:
            q.put(seed)
            q.get()


def test_a_storm_of_kills(manager: WaiterManager, census: Any, start: Start) -> None:
    chance = random.Random(11)
    lock, rlock, semaphore = manager.Lock(), manager.RLock(), manager.BoundedSemaphore(2)
    q, counters = manager.Queue(2), manager.dict(begun=0, ended=0)
    shared = (lock, rlock, semaphore, q, counters)

    def one(seed: int) -> Worker:
        return start(f"worker {seed}", lock_and_count, *shared, seed, parks=False)

    workers = [one(seed) for seed in range(4)]
    for round_number in range(30):
        # A number of calls, so that it is at no particular point of its own.
        goal = counters["begun"] + chance.randrange(1, 5)
        poll(lambda goal=goal: revive(q) and counters["begun"] >= goal, "they go on")
        workers.pop(chance.randrange(4)).kill()
        with lock:
            # Whoever was killed in between has begun one that is not ended.
            assert counters["begun"] - counters["ended"] in (0, 1)
            counters["ended"] = counters["begun"]
        workers.append(one(4 + round_number))
    for worker in workers:
        worker.kill()
    poll(lambda: not waiting(census), "nobody waits any more")
    for obj, times in ((lock, 1), (rlock, 1), (semaphore, 2)):
        for _ in range(times):
            assert obj.acquire(True, DEADLINE) is True
        assert in_thread(obj.acquire, False) is False
    while not q.empty():
        q.get()
    for i in range(4):
        q.put(i) if i < 2 else None
    assert q.full() and [q.get(), q.get()] == [0, 1]


def revive(q: Any) -> bool:
    """Those killed between put and get leave items; were it full of these, all would wait."""
    if q.full():
        q.get()
    elif q.empty():
        q.put("spare")
    return True


def wait_in_crowd(address: Address, kind: str, first: int, count: int) -> None:
    """Be `count` clients that wait; the order in which they were served is on the board."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    threading.stack_size(256 * 1024)
    say("ready")
    sys.stdin.readline()
    manager = manager_at(address)
    board = manager.the_board()
    obj, census = board["obj"], manager.Census()
    served: list[Any] = [None] * count

    def client(number: int) -> None:
        if kind == "Queue":
            served[number] = obj.get()
        else:
            obj.acquire()
            board["order"].append(first + number)
            obj.release()

    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=client, args=(number,), name=f"{first + number}"))
        threads[-1].start()
        # One after the other, or there is no order that they could be woken in.
        end = time.monotonic() + DEADLINE
        while census.crowd() != first + number + 1:
            assert time.monotonic() < end
    say("parked")
    for thread in threads:
        thread.join()
    say(served)


def raise_limit() -> None:
    """As many descriptors as the system lets us have: in the server."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.mark.parametrize("kind", ["Lock", "Queue"])
def test_a_thousand_clients_wait_and_cost_no_thread(kind: str) -> None:
    manager = WaiterManager(authkey=KEY)
    manager.start(initializer=raise_limit)
    crowd, share = 1000, 250
    with manager:
        obj, order, probe, board = (
            getattr(manager, kind)(),
            manager.list(),
            manager.Probe(),
            manager.the_board(),
        )
        board["obj"], board["order"] = obj, order
        if kind == "Lock":
            obj.acquire()
        threads = probe.threads()
        scripts = []
        try:
            for first in range(0, crowd, share):
                scripts.append(Script(wait_in_crowd, manager.address, kind, first, share))
            for script in scripts:
                assert script.line() == "ready"
            for script in scripts:
                script.tell("wait")
                assert script.line(60) == "parked"
            # Each script has one thread, which looks after its clients.
            assert probe.threads() <= threads + len(scripts)
            if kind == "Lock":
                obj.release()
            for i in range(crowd if kind == "Queue" else 0):
                obj.put(i)
            served = [item for script in scripts for item in script.line(60)]
            assert (order[:] if kind == "Lock" else served) == list(range(crowd))
        finally:
            for script in scripts:
                script.__exit__()
