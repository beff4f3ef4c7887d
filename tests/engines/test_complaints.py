"""What users of other libraries have complained of, each a test; the issue is named beside it."""

from __future__ import annotations

import os
import queue
import random
import signal
import sys
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.signals import signals_when
from support.valkeys import ValkeyCensus
from support.waiters import Start, call, sleep_at

import fastmgr
from fastmgr.engines.valkey import life
from fastmgr.engines.valkey.life import sweep

pytestmark = pytest.mark.timeout(120)

KILLS = int(os.environ.get("FASTMGR_KILLS", "40"))


def interrupt(census: ValkeyCensus, number: int, function: Any, *args: Any) -> None:
    """Call a function that waits, and interrupt it once there are so many waiters."""

    def handler() -> None:
        raise KeyboardInterrupt

    waits = signals_when(lambda: in_thread(census.parked) >= number, 1, handler)
    with pytest.raises(KeyboardInterrupt), waits:
        function(*args)


def test_an_interrupted_wait_leaves_no_reply_behind(manager: Any, census: ValkeyCensus) -> None:
    """redis-py 1128, 2499, 2624: the next call had the reply to the interrupted one."""
    q, d = manager.Queue(), manager.dict(a=1)
    for i in range(3):
        interrupt(census, 1, q.get)
        assert d["a"] == 1
        q.put(i)
        assert q.get(timeout=DEADLINE) == i


def test_a_late_release_frees_nobody_elses_lock(manager: Any, start: Start) -> None:
    """redis-py 415: the lock of the holder had expired, and its release freed the next one's."""
    rlock = manager.RLock()
    holder = start("holder", call, rlock, "acquire", parks=False)
    assert holder.said() is True
    with pytest.raises(RuntimeError, match="un-acquired"):
        rlock.release()
    assert in_thread(rlock.acquire, False) is False


def test_a_killed_holder_holds_up_nobody(manager: Any, start: Start) -> None:
    """redis-py 962: the lock was held for ever."""
    lock = manager.Lock()
    holder = start("holder", call, lock, "acquire", parks=False)
    assert holder.said() is True
    holder.kill()
    begun = time.monotonic()
    assert lock.acquire(True, DEADLINE) is True
    assert time.monotonic() - begun < 2  # there is no lease to wait for


def test_a_wait_is_longer_than_the_time_that_an_answer_may_take(server: Any, manager: Any) -> None:
    """redis-py 4125, 4098, python-redis-lock PR 35: a socket's time, or a lease, ended the wait."""
    hurried = fastmgr.SyncManager.from_address(server.url(ns="lives", timeout="1"))
    q, locks = hurried.Queue(), [hurried.Lock(), hurried.Lock()]
    for lock in locks:
        lock.acquire()
    waiters = [
        Client(call, q, "get"),
        Client(call, locks[0], "acquire"),
        Client(call, locks[1], "acquire", True, DEADLINE),
    ]
    time.sleep(2.5)
    assert [waiter.outcome for waiter in waiters] == [None] * 3
    q.put("item")
    for lock in locks:
        lock.release()
    assert [waiter.result() for waiter in waiters] == ["item", True, True]


def hold_and_compute(lock: Any, ready: Any, seconds: float) -> None:
    """Hold a lock, and let no other thread of this process run meanwhile."""
    lock.acquire()
    ready.set()
    sys.setswitchinterval(1000)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(0.005)
    lock.release()  # it raises where the lock was lost


def test_a_holder_whose_threads_do_not_run_keeps_its_lock(manager: Any, start: Start) -> None:
    """python-redis-lock 85, 91: no thread had the time to renew the lease."""
    lock, ready = manager.Lock(), manager.Event()
    busy = 1.5 * life.GRACE
    holder = start("holder", hold_and_compute, lock, ready, busy, parks=False)
    assert ready.wait(DEADLINE)
    begun = time.monotonic()
    sweep(manager._session)
    assert lock.acquire(True, busy / 2) is False
    assert lock.acquire(True, DEADLINE) is True
    assert time.monotonic() - begun > busy * 0.8
    assert holder.said() is None and not lock.owner_died


def test_who_does_nothing_for_long_goes_on_where_it_was(
    server: Any, manager: Any, census: Any
) -> None:
    """rq 1933, 1968: the server had closed the connection of an idle worker, which ended."""
    lock, d, q = manager.Lock(), manager.dict(n=0), manager.Queue()
    lock.acquire()
    waiter = Client(call, q, "get")
    poll(lambda: census.parked() == 1, "it waits")
    mine = manager._session.run([b"CLIENT", b"ID"])
    server.ask("CONFIG", "SET", "timeout", "1")
    poll(lambda: b"id=" not in server.ask("CLIENT", "LIST", "ID", mine), "the server closed it")
    assert d.incr("n") == 1
    assert in_thread(lock.acquire, False) is False
    lock.release()
    q.put("item")
    assert waiter.result() == "item"


def once(manager: Any) -> list[tuple[Any, str, Any]]:
    """Objects, and calls that change them or find out what is to be changed."""
    d, items, numbers = manager.dict(a=1, b=2), manager.list([3, 1, 2]), manager.set([1, 2])
    value, counter, ns = manager.Value("O", 1), manager.Counter(), manager.Namespace(n=1)
    counters, array, q = manager.Counters(["a"]), manager.Array("q", [1, 2]), manager.Queue()
    lock, rlock, semaphore = manager.Lock(), manager.RLock(), manager.Semaphore(2)
    event = manager.Event()
    return [
        (d, "__getitem__", ["a"]), (d, "__setitem__", ["c", 3]), (d, "__setitem__", ["c", 4]),
        (d, "get", ["x", 0]), (d, "setdefault", ["x", []]), (d, "incr", ["a", 2]),
        (d, "exchange", ["a", 5]), (d, "compare_exchange", ["a", 5, 6]), (d, "pop", ["x"]),
        (d, "popitem", []), (d, "update", [{"y": 1, "z": 2}]), (d, "__delitem__", ["y"]),
        (d, "__contains__", ["z"]), (d, "items", []), (d, "clear", []),
        (items, "append", [4]), (items, "insert", [1, 9]), (items, "__getitem__", [0]),
        (items, "__setitem__", [0, 7]), (items, "pop", [0]),
        (items, "extend", [[5, 6]]), (items, "incr", [0, 1]), (items, "reverse", []),
        (numbers, "add", [3]), (numbers, "discard", [3]), (numbers, "pop", []),
        (value, "set", [2]), (value, "incr", [1]), (value, "compare_exchange", [3, 4]),
        (value, "exchange", [5]), (counter, "incr", []), (counter, "exchange", [3]),
        (counters, "incr", ["a"]), (ns, "__setattr__", ["n", 2]), (ns, "incr", ["n"]),
        (array, "__setitem__", [0, 3]), (array, "incr", [0]), (q, "put", [1]), (q, "get", []),
        (lock, "acquire", []), (lock, "release", []), (rlock, "acquire", []),
        (rlock, "acquire", []), (rlock, "release", []), (semaphore, "acquire", []),
        (semaphore, "release", []), (event, "set", []), (event, "wait", []), (event, "clear", []),
    ]  # fmt: skip


def test_a_verb_is_one_request(manager: Any, server: Any) -> None:
    """walrus PR 183: what the first command had found was gone before the second.

    (Those that compare or sort what only a client can are made again if somebody was faster.)
    """
    calls = once(manager)
    for obj, name, args in calls:
        obj._callmethod(name, args)  # which loads the functions, and lets every session begin
    del obj
    again, several = once(manager), {}
    with server.monitor() as requests:
        for obj, name, args in again:
            key = manager._session.key_of(obj._id)
            obj._callmethod(name, args)
            made = [words for words in requests() if key in words]
            if len(made) != 1:
                several[obj._token.typeid, name] = made
    assert several == {}


def test_no_item_goes_with_a_getter_that_dies_in_the_moment_of_a_put(
    manager: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rq 2079, 1716: the job was gone with the worker."""
    monkeypatch.setattr(life, "SWEEP_EVERY", 3600)  # or it would strike what shows who took what
    q, chance = manager.Queue(), random.Random(5)

    def connections() -> int:
        return len(manager._session.run([b"CLIENT", b"LIST"]).splitlines())

    q.put("begins the session")
    assert q.get() == "begins the session"
    before = connections()
    for i in range(max(3, KILLS // 4)):
        doomed = start(f"doomed {i}", call, q, "get", parks=True)
        killer = threading.Timer(chance.uniform(0, 0.002), doomed.process.kill)
        killer.start()
        q.put(i)
        killer.join()
        doomed.process.join(DEADLINE)
        poll(lambda: connections() <= before, "the server has read all that it asked for")
        # Else it has asked for the item, which is its own from then on.
        taken = manager._session.run([b"HVALS", manager._session.key_of(q._id) + b":t"])
        if not any(record.endswith(b" %d" % i) for record in taken):
            assert q.get(timeout=DEADLINE) == i
        assert q.empty()


def test_an_item_that_a_living_process_has_is_not_delivered_again(
    manager: Any, start: Start
) -> None:
    """celery 5935, 2599, kombu 337: there is no time after which it would be."""
    q = manager.JoinableQueue()
    q.put("item")
    worker = start("worker", call, q, "get", parks=False)
    assert worker.said() == "item"
    os.kill(worker.process.pid or 0, signal.SIGSTOP)
    sweep(manager._session)
    with pytest.raises(queue.Empty):
        q.get(timeout=1)
    worker.kill()
    sweep(manager._session)
    assert q.empty()  # the worker had it


def test_a_put_on_a_full_queue_drops_nothing(manager: Any) -> None:
    """lithops: `put` dropped the item, and `full` said the contrary."""
    q = manager.Queue(1)
    assert not q.full()
    q.put(1)
    assert q.full()
    with pytest.raises(queue.Full):
        q.put(2, timeout=0.05)
    putter = Client(q.put, 3)
    assert [q.get(timeout=DEADLINE), q.get(timeout=DEADLINE)] == [1, 3]
    putter.result()
    assert q.empty()


def test_the_inner_exit_keeps_an_rlock(manager: Any) -> None:
    """lithops: it released the lock."""
    rlock = manager.RLock()
    with rlock:
        with rlock:
            pass
        assert in_thread(rlock.acquire, False) is False
    assert in_thread(lambda: rlock.acquire(False) and rlock.release()) is None


def test_one_whose_time_was_over_is_not_notified(manager: Any, census: ValkeyCensus) -> None:
    """lithops: it stayed in the queue, and ate the notification of another."""
    condition = manager.Condition()
    with condition:
        assert condition.wait(0.05) is False
    sleeper = Client(sleep_at, condition)
    poll(lambda: census.parked() == 1, "it sleeps")
    with condition:
        condition.notify()
    assert sleeper.result() is True


def test_waiting_for_an_event_says_whether_it_came(manager: Any) -> None:
    """lithops: None."""
    event = manager.Event()
    assert event.wait(0.01) is False
    event.set()
    assert event.wait() is True


def test_one_interrupted_in_the_middle_takes_only_itself_away(
    manager: Any, census: ValkeyCensus
) -> None:
    """copr PR 4389: it took another's entry."""
    lock, order = manager.Lock(), []
    lock.acquire()

    def take(name: str) -> None:
        lock.acquire()
        order.append(name)
        lock.release()

    first = Client(take, "first")
    poll(lambda: census.parked() == 1, "the first waits")

    def last_comes() -> bool:
        if in_thread(census.parked) == 2:
            late.append(Client(take, "last"))
            poll(lambda: in_thread(census.parked) == 3, "the last waits")
        return len(late) == 1

    late: list[Client] = []

    def handler() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), signals_when(last_comes, 1, handler):
        lock.acquire()
    assert census.parked() == 2
    lock.release()
    for client in (first, *late):
        client.result()
    assert order == ["first", "last"]
    assert lock.acquire(False) is True


def hold_all_sorts(manager_address: str, names: list[Any]) -> None:
    """Hold and wait for all sorts of things until one is killed."""
    lock, semaphore, q, d, event = names
    lock.acquire()
    semaphore.acquire()
    d["mine"] = event
    threading.Thread(target=event.wait, daemon=True).start()
    q.put(d)
    q.get()
    q.get()


def test_many_killed_sessions_leave_no_key(
    server: Any, manager: Any, start: Start, census: ValkeyCensus
) -> None:
    """bottleneck 115: what stale clients leave piles up."""
    session = manager._session
    things = [
        manager.Lock(), manager.Semaphore(3), manager.Queue(), manager.dict(), manager.Event()
    ]  # fmt: skip
    before = {key for key in census.all_keys() if not key.endswith(b"}:swept")}
    for i in range(max(3, KILLS // 8)):
        doomed = start(f"doomed {i}", hold_all_sorts, "", things, parks=True)
        doomed.kill()
        things[0].acquire(True, DEADLINE)
        things[0].release()
        things[0].consistent()
    poll(lambda: sweep(session) == 0, "nobody is left to be buried")
    things[3].clear()
    things[1].consistent()
    sessions = b"{%b}:sessions" % session.ns
    assert session.run([b"SCARD", sessions]) == 1
    left = {key for key in census.all_keys() if not key.endswith(b"}:swept")}
    assert {key.partition(b"}")[0] for key in left} == {key.partition(b"}")[0] for key in before}
    del things[:], doomed
    poll(lambda: manager._number_of_objects() == 0, "no object is left")
    books = b"}:swept", b"}:sessions", b"}:version"  # of the namespace
    assert {key for key in census.all_keys() if not key.endswith(books)} == set()
