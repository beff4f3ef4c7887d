"""Calls by mail of many at once: who serves them, threads, processes, calls within calls."""

from __future__ import annotations

import os
import queue
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll, settle, together
from support.mail import FORK, SPAWN, MailManager, use
from support.mailboxes import AFTER, MARK, OPEN, Call, boxes, fresh_box

from fastmgr import oneway

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the mailbox in /proc"),
]


# Who serves


def test_the_loop_and_a_worker_take_turns(manager: MailManager) -> None:
    """A user's class moves a connection to a thread, and the mailbox with it."""
    d, keeper = manager.dict(n=0), manager.Keeper()
    box = fresh_box(d)
    carried: Counter[str] = Counter()
    n = noted = 0
    rng = random.Random(4)
    for _ in range(60):
        for _ in range(rng.choice([1, 2, 70])):
            n += 1
            value, by_mail = box.carries(lambda: d.incr("n"))
            assert value == n
            carried["dict"] += by_mail
        for _ in range(rng.choice([1, 2, 70])):
            noted += 1
            value, by_mail = box.carries(lambda: keeper.note(None))
            assert value == noted
            carried["Keeper"] += by_mail
    assert box.until_carried(lambda: keeper.echo(5)) == 5
    assert box.until_carried(lambda: d["n"]) == n


def test_calls_of_users_that_take_their_time(manager: MailManager) -> None:
    """By the time of the reply the client sleeps, and the reply finds it."""
    sleeper, d = manager.Sleeper(), manager.dict(a=1)
    box = fresh_box(d)
    for i in range(20):
        assert sleeper.slow(0.002 * (i % 3), i) == i
        assert box.until_carried(lambda: d["a"]) == 1
        assert box.until_carried(lambda i=i: sleeper.slow(0.001, i)) == i
        assert box.state & ~OPEN == 0


def test_calls_that_wait_between_others(manager: MailManager, off_manager: MailManager) -> None:
    q, d = manager.Queue(), manager.dict(n=0)
    condition = manager.Condition()
    box = fresh_box(d)

    # Calls, though the queue may have a ring.
    def put(item: int) -> None:
        q._callmethod("put", (item,))

    def get(*args: Any) -> Any:
        return q._callmethod("get", args)

    def empty() -> bool:
        with pytest.raises(queue.Empty):
            get(True, 0.002)
        return True

    for i in range(15):
        assert box.until_carried(empty)
        assert box.until_carried(lambda: d.incr("n")) == d["n"]
        put(i)
        assert box.until_carried(lambda: (put(0), get())[1]) in (0, i)
        while not q.empty():
            get()
        with condition:
            assert condition.wait(0.002) is False
            assert condition.wait_for(lambda: True, 1)
    assert q.qsize() == 0
    # A lock that is waited for over the channel: by who shares no memory with the server.
    lock = off_manager.Lock()
    assert lock.acquire()
    off = off_manager.dict(n=0)
    for i in range(10):
        assert in_thread(lambda: [lock.acquire(True, 0.002), lock.acquire(False)]) == [False] * 2
        assert off.incr("n") == i + 1
    lock.release()


def test_two_threads_wait_for_each_other(manager: MailManager) -> None:
    """Each call waits in the server, and is answered by what another's does."""
    there, back, d = manager.Queue(), manager.Queue(), manager.dict(n=0)
    condition, rounds = manager.Condition(), 300

    def serve() -> None:
        for i in range(rounds):
            assert there.get(True, DEADLINE) == i
            d.incr("n")
            back.put(-i)

    def ask() -> None:
        for i in range(rounds):
            there.put(i)
            assert back.get(True, DEADLINE) == -i
            assert d["n"] == i + 1

    together(2, lambda i: (serve, ask)[i]())
    turns = manager.list([0])

    def alternate(me: int) -> None:
        for _ in range(50):
            with condition:
                assert condition.wait_for(lambda: turns[0] % 2 == me, DEADLINE)
                turns.incr(0)
                condition.notify_all()

    together(2, alternate)
    assert turns[0] == 100


# Many


def test_many_threads(manager: MailManager) -> None:
    d, keeper = manager.dict(n=0), manager.Keeper()
    count, times = 16, 200

    def work(me: int) -> None:
        own = manager.list()
        for i in range(times):
            d.incr("n")
            d[me] = (me, i)
            assert d[me] == (me, i)
            own.append(i)
            if i % 50 == me:
                assert keeper.echo((me, i)) == (me, i)
        assert own[:] == list(range(times))

    together(count, work, 60)
    assert d["n"] == count * times


def test_more_clients_than_are_looked_for_at_once(manager: MailManager) -> None:
    """The server looks into 64 open mailboxes; the others' calls go over the socket meanwhile."""
    count, times = 80, 60
    d = manager.dict(n=0)
    use(d)
    of_server = set(boxes(manager._process.pid))
    ready = threading.Barrier(count)
    seen = [0, 0]

    def work(me: int) -> None:
        use(d)
        if ready.wait(60) == 0:
            seen[:] = [len(boxes()), len(set(boxes(manager._process.pid)) - of_server)]
        ready.wait(60)
        for i in range(times):
            d.incr("n")
            d[me] = i
            assert d[me] == i

    together(count, work, 60)
    assert seen[0] >= count and seen[1] == count
    assert d["n"] == count * times


# Processes


def report_from(child: Callable[[], Any]) -> Any:
    """What a function returns in a child of a bare fork."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, repr(child()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = in_thread(pipe.read).decode()
    assert os.waitpid(pid, 0)[1] == 0
    return eval(said)


def work_in_child(d: Any, inherited: list[str]) -> tuple[int, int]:
    """Make calls; how many mailboxes are new, and the sum."""
    for _ in range(3 * AFTER):
        total = d.incr("n")
    return len(set(boxes()) - set(inherited)), total


@pytest.mark.parametrize("kind", ["os.fork", "multiprocessing"])
def test_a_forked_child_leaves_its_parents_alone(manager: MailManager, kind: str) -> None:
    d = manager.dict(n=0)
    box = fresh_box(d)
    for round_ in range(3):
        box.until_carried(lambda: d["n"])
        inherited = list(boxes())
        box.size = MARK
        before = box.message
        if kind == "os.fork":
            found = report_from(lambda inherited=inherited: work_in_child(d, inherited))
        else:
            results = FORK.SimpleQueue()
            child = FORK.Process(
                target=lambda inherited=inherited, results=results: results.put(
                    work_in_child(d, inherited)
                )
            )
            child.start()
            found = in_thread(results.get)
            child.join(DEADLINE)
            assert child.exitcode == 0
        # The child has had a mailbox, but not this one.
        assert found == (1, (round_ + 1) * 3 * AFTER)
        assert (box.size, box.message) == (MARK, before)
        assert box.state & ~OPEN == 0
        assert box.until_carried(lambda: d["n"]) == found[1]


def test_forks_while_other_threads_call(manager: MailManager) -> None:
    d = manager.dict(n=0)
    done = threading.Event()
    made = [0, 0, 0]

    def hammer(me: int) -> None:
        while not done.is_set():
            d.incr("n")
            made[me] += 1

    threads = [threading.Thread(target=hammer, args=(me,), daemon=True) for me in range(3)]
    for thread in threads:
        thread.start()
    try:
        of_children = 0
        for _ in range(5):
            report_from(lambda: [d.incr("n") for _ in range(100)] and None)
            of_children += 100
            d.incr("n")
            of_children += 1
    finally:
        done.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert d["n"] == sum(made) + of_children


def count_up(d: Any, keeper: Any, times: int) -> None:
    """For a child that has got proxies."""
    for i in range(times):
        d.incr("n")
        assert keeper.echo(i) == i


def test_proxies_in_children(own_manager: MailManager) -> None:
    d, keeper = own_manager.dict(n=0), own_manager.Keeper()
    use(d)
    children = [
        context.Process(target=count_up, args=(d, keeper, 200))
        for context in (FORK, FORK, FORK, SPAWN)
    ]
    for child in children:
        child.start()
    count_up(d, keeper, 200)
    for child in children:
        child.join(DEADLINE)
        assert child.exitcode == 0
    assert d["n"] == 1000
    server = own_manager._process.pid
    poll(lambda: len(boxes(server)) <= len(boxes()), "the server's ends of theirs are gone")


# Calls within calls


class Calling:
    """Its pickling makes calls, of which the result goes with it."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return int, (self.call(),)


def test_calls_made_while_an_argument_is_pickled(manager: MailManager) -> None:
    d, items, keeper = manager.dict(n=0), manager.list(), manager.Keeper()
    # On a new channel the mailbox comes with a call that is made within another.
    d._connect()
    for i in range(2 * AFTER):
        items.append(Calling(lambda: d.incr("n")))
        assert items[-1] == d["n"] == i + 1
    box = fresh_box(d)
    items[:] = []
    start, total = d["n"], 0
    for i in range(300):
        inner: list[bool] = []

        def nested(inner: list[bool] = inner) -> int:
            result, by_mail = box.carries(lambda: d.incr("n"))
            inner.append(by_mail)
            return result

        if i % 3 == 0:
            items.append(Calling(nested))
        elif i % 3 == 1:
            oneway(items).append(Calling(nested))
        else:
            assert keeper.echo([Calling(nested)]) == [start + i + 1]
            items.append(start + i + 1)
        total += len(inner)
    assert items[:] == list(range(start + 1, start + 301))
    assert total == 300


class Dropping:
    """Drops what it holds while it is pickled."""

    def __init__(self, held: list[Any]) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        self.held.clear()
        return int, (7,)


def test_proxies_dropped_at_any_time(own_manager: MailManager) -> None:
    """Releases get no reply: those that a finalizer sends go before what follows."""
    manager = own_manager
    keeper, d = manager.Keeper(), manager.dict()
    box = fresh_box(d)
    expected = manager._number_of_objects()
    for i in range(150):
        page = manager.list([i])
        box.until_carried(lambda: len(d))
        if i % 2:
            del page
        else:
            held = [page, keeper.page(i)]
            del page
            # Inside a call, behind whose encoding the releases queue.
            assert keeper.echo(Dropping(held)) == 7
        assert len(d) == 0
    settle(manager, expected)
    # By another thread, over whichever channel is free: also this one's.
    given: queue.Queue[Any] = queue.Queue()

    def drop() -> None:
        while given.get(timeout=DEADLINE) is not None:
            pass

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    for i in range(500):
        given.put(keeper.page(i) if i % 2 else manager.list([i]))
        d["x"] = i
        assert d["x"] == i
    given.put(None)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert box.until_carried(lambda: d["x"]) == 499
    settle(manager, expected)
