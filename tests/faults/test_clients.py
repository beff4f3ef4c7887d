"""Clients that are killed, interrupted, forked: nothing is lost, nothing stays."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    ProbeManager,
    Script,
    at_rest,
    call_in_subprocess,
    connected,
    grown,
    in_thread,
    kill,
    poll,
    process_gone,
    rss_bytes,
    say,
    settle,
    together,
)

from fastmgr.managers import Token

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def process_key() -> Iterator[None]:
    """The key of this process is that of the manager, which nested proxies of the stdlib need."""
    before = multiprocessing.current_process().authkey
    multiprocessing.current_process().authkey = KEY
    yield
    multiprocessing.current_process().authkey = before


@pytest.fixture
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


# Killed clients


def create_until_killed(address: Address, clients: int) -> None:
    """Fork `clients` clients; each has some objects and makes more, until somebody ends it."""
    reading, writing = os.pipe()
    pids = []
    for _ in range(clients):
        pid = os.fork()
        if not pid:
            manager = connected(address)
            keep = [manager.list(), manager.dict(), manager.Queue(), manager.Lock()]
            keep[0].append(keep[1])
            keep[3].acquire()
            os.write(writing, b".")
            while True:
                manager.Value("i", 1)
        pids.append(pid)
    for _ in range(clients):
        assert os.read(reading, 1) == b"."
    say(pids)
    sys.stdin.read()


def test_fifty_killed_clients_leave_nothing(manager: ProbeManager) -> None:
    mine = manager.dict({"mine": 1})
    probe = manager.Probe()
    descriptors = probe.descriptors()
    before = manager._number_of_objects()
    with Script(create_until_killed, manager.address, 50) as script:
        pids = script.line(60)
        assert len(pids) == 50
        assert manager._number_of_objects() >= before + 50 * 4
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            poll(lambda pid=pid: process_gone(pid), "a killed process is gone")  # type: ignore
    settle(manager, before)
    assert mine.copy() == {"mine": 1}
    poll(lambda: probe.descriptors() <= descriptors + 8, "their connections are closed")


def take_and_wait(address: Address) -> None:
    """Make something of its own, then wait for an item that does not come."""
    multiprocessing.current_process().authkey = KEY
    manager = connected(address)
    box = manager.the_box()
    q = box["queue"]
    mine = manager.list()
    say(len(mine))
    q.get()


BOX: dict[str, Any] = {}


def the_box() -> dict[str, Any]:
    """One dict for all clients of a server."""
    return BOX


ProbeManager.register("the_box", the_box, exposed=("__getitem__", "__setitem__"))


def test_a_killed_client_takes_no_item(process_key: None, manager: ProbeManager) -> None:
    """The stdlib's server gives the next item to the one who is no more."""
    box, q = manager.the_box(), manager.Queue()
    box["queue"] = q
    before = manager._number_of_objects()
    with Script(take_and_wait, manager.address) as script:
        assert script.line() == 0
        poll(lambda: at_rest(script.pid), "the client waits in get()")
        os.kill(script.pid, signal.SIGKILL)
        script.process.wait(DEADLINE)
        settle(manager, before)  # what it had is gone: the server knows that it is dead
        q.put("for the living")
        assert q.get(timeout=DEADLINE) == "for the living"


def lock_and_wait(address: Address) -> None:
    multiprocessing.current_process().authkey = KEY
    manager = connected(address)
    lock = manager.the_box()["lock"]
    lock.acquire()
    say("locked")
    signal.pause()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_a_lock_of_a_killed_client_is_handed_on(
    kind: str, process_key: None, manager: ProbeManager
) -> None:
    """The stdlib's stays locked for ever."""
    box, lock = manager.the_box(), getattr(manager, kind)()
    box["lock"] = lock
    with Script(lock_and_wait, manager.address) as script:
        assert script.line() == "locked"
        assert lock.acquire(False) is False
        outcome: queue.SimpleQueue[bool] = queue.SimpleQueue()
        waiter = threading.Thread(target=lambda: outcome.put(lock.acquire(True, 60)), daemon=True)
        waiter.start()
        os.kill(script.pid, signal.SIGKILL)
        assert outcome.get(timeout=DEADLINE) is True
        waiter.join(DEADLINE)


# Long runs


def create_and_drop(manager: ProbeManager, rounds: int) -> None:
    for i in range(rounds):
        manager.list([i]).append(i)
        manager.dict(a=i)
        manager.Value("i", i)
        manager.Lock()
        manager.Queue()


def test_ten_thousand_objects_come_and_go(manager: ProbeManager) -> None:
    """Not one object stays, and no memory."""
    server: int = manager._process.pid
    mine = manager.list(["mine"])
    create_and_drop(manager, 500)
    settle(manager, 1)
    before = rss_bytes(server)
    create_and_drop(manager, 2000)
    settle(manager, 1)
    assert grown(server, before) < 4 << 20
    assert mine[:] == ["mine"]


def test_nested_objects_come_and_go(process_key: None, manager: ProbeManager) -> None:
    """With the stdlib, whatever was nested once stays."""
    server: int = manager._process.pid
    outer = manager.dict()

    def rounds(number: int) -> None:
        for i in range(number):
            outer["inner"] = manager.list(["x" * 4096, i])
            outer["inner"].append(outer)
        outer.clear()
        settle(manager, 1)

    rounds(100)
    before = rss_bytes(server)
    rounds(1000)
    assert grown(server, before) < 2 << 20


# Interrupted calls


def interrupt_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def interrupt_calls(address: Address) -> list[Any]:
    manager = connected(address)
    seen: list[Any] = []
    sleeper, q, event, lock = manager.Sleeper(), manager.Queue(), manager.Event(), manager.Lock()
    in_thread(lock.acquire)
    calls = {
        "method": lambda: sleeper.slow(1.0, "stale"),
        "get": q.get,
        "wait": lambda: event.wait(60),
        "acquire": lock.acquire,
    }
    call: Any
    for name, call in calls.items():
        try:
            interrupt_after(0.2)
            call()
            seen.append(f"{name} was not interrupted")
        except KeyboardInterrupt:
            pass
        seen.append(sleeper.echo([name, "fresh"]))
    # The interrupted get() and acquire() are over: they take nothing.
    q.put("item")
    try:
        seen.append(q.get(timeout=10))
    except queue.Empty:
        seen.append("lost")
    lock.release()
    seen.append(lock.acquire(timeout=10))
    seen.append(event.is_set())
    return seen


def test_an_interrupted_call_leaves_no_reply_behind(manager: ProbeManager) -> None:
    """With the stdlib the next call gets the reply of the interrupted one, and so on for ever."""
    assert call_in_subprocess(interrupt_calls, manager.address, timeout=60) == [
        ["method", "fresh"],
        ["get", "fresh"],
        ["wait", "fresh"],
        ["acquire", "fresh"],
        "item",
        True,
        False,
    ]


def interrupted_and_idle(address: Address) -> None:
    q = connected(address).the_box()["queue"]
    interrupt_after(0.2)
    with contextlib.suppress(KeyboardInterrupt):
        q.get()
    say("interrupted")
    signal.pause()


def test_an_interrupted_get_takes_nothing_though_no_call_follows(manager: ProbeManager) -> None:
    """Over the only connection of its process, which is all that shows that it lives."""
    box, q = manager.the_box(), manager.Queue()
    box["queue"] = q
    with Script(interrupted_and_idle, manager.address) as script:
        assert script.line() == "interrupted"
        q.put("item")
        assert q.get(timeout=DEADLINE) == "item"


def interrupt_anywhere(address: Address, times: int) -> list[int]:
    """Be interrupted at any point of a call, again and again; count wrong answers."""
    manager = connected(address)
    chance = random.Random(7)
    sleeper, values = manager.Sleeper(), manager.list(range(5))
    wrong = done = interrupted = 0
    for _ in range(times):
        try:
            interrupt_after(chance.uniform(0.0005, 0.006))
            while True:
                done += 1
                wrong += sleeper.echo(done) != done
                wrong += values[done % 5] != done % 5
        except KeyboardInterrupt:
            interrupted += 1
    return [wrong, interrupted, len(values)]


def test_interrupts_anywhere_in_a_call(manager: ProbeManager) -> None:
    assert call_in_subprocess(interrupt_anywhere, manager.address, 80, timeout=60) == [0, 80, 5]
    settle(manager, 0)


# Forks


def use_until_killed(values: Any, manager: Any, ready: Any) -> None:
    values.append("child")
    extra = manager.dict(of="the child")
    ready.send(len(extra))
    signal.pause()


def test_a_killed_child_does_not_take_the_parents_references(manager: ProbeManager) -> None:
    values = manager.list(["parent"])
    here, there = multiprocessing.Pipe()
    process: Any = multiprocessing.get_context("fork").Process(
        target=use_until_killed, args=(values, manager, there)
    )
    process.start()
    try:
        assert here.poll(DEADLINE) and here.recv() == 1
        assert manager._number_of_objects() == 2
    finally:
        process.kill()
    process.join(DEADLINE)
    settle(manager, 1)  # what was the child's alone is gone
    assert values[:] == ["parent", "child"]
    del values
    gc.collect()
    settle(manager, 0)  # and the child's reference to what was the parent's, too


def fork_and_kill(address: Address) -> list[Any]:
    """As above with a raw fork, of which the stdlib knows nothing."""
    manager = connected(address)
    values = manager.list(["parent"])
    values.append("still the parent")
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        values.append("child")
        extra = manager.dict(of="the child")
        os.write(writing, b"%d" % len(extra))
        signal.pause()
    assert os.read(reading, 1) == b"1"
    kill(pid)
    os.waitpid(pid, 0)
    settle(manager, 1)
    seen = values[:]
    del values
    settle(manager, 0)
    return list(seen)


def test_a_killed_raw_fork_does_not_take_the_parents_references(manager: ProbeManager) -> None:
    seen = call_in_subprocess(fork_and_kill, manager.address, timeout=80)
    assert seen == ["parent", "still the parent", "child"]


def fork_and_exit(address: Address) -> list[Any]:
    """The child of a raw fork drops what it inherited, and exits in an orderly way or not."""
    manager = connected(address)
    values = manager.list(["parent"])
    for tidy in (True, False):
        pid = os.fork()
        if not pid:
            del values
            gc.collect()
            if tidy:
                multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            os._exit(0)
        os.waitpid(pid, 0)
    manager.dict()  # a round trip or two for what the children may have left on the way
    seen = [values[:], manager._number_of_objects()]
    return seen


def test_a_fork_that_drops_and_exits(manager: ProbeManager) -> None:
    assert call_in_subprocess(fork_and_exit, manager.address) == [["parent"], 1]


# Many clients


def be_idle(address: Address, threads: int) -> None:
    """One connection for each thread; then nothing, until told."""
    manager = connected(address)
    values = manager.list(["x"])
    arrived, done = threading.Semaphore(0), threading.Event()

    def client() -> None:
        values.append(None)  # a change, which takes a connection
        arrived.release()
        done.wait()

    for _ in range(threads):
        threading.Thread(target=client, daemon=True).start()
    for _ in range(threads):
        assert arrived.acquire(timeout=DEADLINE)
    say("idle")
    sys.stdin.read()
    done.set()


def test_idle_connections_cost_no_thread(manager: ProbeManager) -> None:
    """The stdlib has a thread for each."""
    probe = manager.Probe()
    threads, descriptors = probe.threads(), probe.descriptors()
    scripts = [Script(be_idle, manager.address, 100) for _ in range(3)]
    with scripts[0], scripts[1], scripts[2]:
        assert [script.line(60) for script in scripts] == ["idle"] * 3
        assert probe.descriptors() >= descriptors + 280
        assert probe.threads() <= threads + 2
        for script in scripts:
            script.finish()
    settle(manager, 1)
    poll(lambda: probe.descriptors() <= descriptors + 8, "their connections are closed")


# A killed server


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)], ids=["unix", "tcp"])
def test_a_killed_server(address: Any) -> None:
    """Whoever waits for it hears of it, and whoever calls it next."""
    manager = ProbeManager(address, KEY)
    manager.start()
    q, values, sleeper = manager.Queue(), manager.list([1]), manager.Sleeper()
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    entered = threading.Barrier(4)

    def blocked(call: Any) -> None:
        assert values[:] == [1]  # connected
        entered.wait(DEADLINE)
        try:
            call()
            outcome.put(None)
        except BaseException as error:
            outcome.put(error)

    for call in (q.get, manager.Event().wait, lambda: sleeper.slow(3600, None)):
        threading.Thread(target=blocked, args=(call,), daemon=True).start()
    entered.wait(DEADLINE)
    os.kill(manager._process.pid, signal.SIGKILL)
    for _ in range(3):
        error = outcome.get(timeout=DEADLINE)
        assert isinstance(error, (EOFError, ConnectionError)), repr(error)
    for _ in range(2):
        with pytest.raises((EOFError, ConnectionError)):
            in_thread(values.append, 2)
        with pytest.raises((EOFError, ConnectionError)):
            values.append(2)
    with pytest.raises((EOFError, ConnectionError)):
        in_thread(manager.list)
    in_thread(manager.shutdown)
    assert manager._process.exitcode == -signal.SIGKILL


# The moment in which a worker gives its connection back


class Hog:
    """Keeps the server's threads waiting for one another."""

    def hold(self, at: float, seconds: float) -> None:
        """From `at` on hold the GIL for many milliseconds at a time."""

        def run() -> None:
            time.sleep(max(0.0, at - time.monotonic()))
            while time.monotonic() < at + seconds:
                ctypes.PyDLL(None).usleep(60_000)

        threading.Thread(target=run, daemon=True).start()


class HogManager(ProbeManager):
    pass


HogManager.register("Hog", Hog)


def hold_and_wait(address: Address, idents: dict[str, str]) -> None:
    lock, words = (
        ProbeManager._registry[typeid][3](Token(typeid, address, ident), "pickle", authkey=KEY)
        for typeid, ident in idents.items()
    )
    say("ready")
    sys.stdin.readline()
    lock.acquire()
    words.sort(key=len)  # on a worker, which gives the connection back a second later
    say(time.monotonic())
    sys.stdin.read()


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of one process is that of all")
def test_killed_as_its_worker_gives_up_waiting() -> None:
    """The loop sees the end before the worker does, which has just stopped to look."""
    moments = (0.005, 0.01, 0.015, 0.02)
    with HogManager(authkey=KEY) as manager:
        hog = manager.Hog()

        def kill_in_time(number: int) -> None:
            lock, words = manager.Lock(), manager.list(["a"])
            idents = {"Lock": lock._token.id, "list": words._token.id}
            with Script(hold_and_wait, manager.address, idents) as script:
                assert script.line() == "ready"
                ready.wait(DEADLINE)
                time.sleep(0.4 * number)  # to each a moment of its own
                script.tell("go")
                given_back = script.line() + 1.0
                hog.hold(given_back - 0.02, 0.3)
                late = moments[number]
                time.sleep(max(0.0, given_back + late - time.monotonic()))  # this very moment
                kill(script.pid)
            assert lock.acquire(timeout=DEADLINE), "a dead client holds the lock"
            lock.consistent()
            lock.release()

        ready = threading.Barrier(len(moments))
        together(len(moments), kill_in_time)
