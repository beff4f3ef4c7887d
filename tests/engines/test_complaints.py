"""What users of other libraries have complained of, each a test; the issue is named beside it."""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.signals import signals_when
from support.valkeys import ValkeyCensus
from support.waiters import Start, call, sleep_at

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


def test_a_long_wait_without_a_timeout(manager: Any) -> None:
    """python-redis-lock PR 35, redis-py 4125: a lease or a socket's time was over."""
    lock, q = manager.Lock(), manager.Queue()
    lock.acquire()
    waiters = [Client(call, lock, "acquire"), Client(call, q, "get")]
    time.sleep(6)  # longer than the five seconds of others
    assert [waiter.outcome for waiter in waiters] == [None, None]
    lock.release()
    q.put("item")
    assert [waiter.result() for waiter in waiters] == [True, "item"]


def test_no_item_goes_with_a_getter_that_dies_in_the_moment_of_a_put(
    manager: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rq 2079, 1716: the job was gone with the worker."""
    monkeypatch.setattr(life, "SWEEP_EVERY", 3600)  # or it would strike what shows who took what
    q, chance = manager.Queue(), random.Random(5)
    for i in range(max(3, KILLS // 4)):
        doomed = start(f"doomed {i}", call, q, "get", parks=True)
        killer = threading.Timer(chance.uniform(0, 0.002), doomed.process.kill)
        killer.start()
        q.put(i)
        killer.join()
        doomed.process.join(DEADLINE)
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
    left = {key for key in census.all_keys() if not key.endswith((b"}:swept", b"}:sessions"))}
    assert left == set()
