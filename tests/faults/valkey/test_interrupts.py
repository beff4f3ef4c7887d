"""A signal's handler raises at any moment of a call: no grant and no waiter is left over."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest
from support import DEADLINE, in_thread
from support.signals import Interrupt
from support.valkeys import KINDS, ValkeyCensus, server

from fastmgr import SyncManager

ROUNDS = 400
#: Seconds: beyond what a call takes that nobody delays.
LATEST = 300e-6


@pytest.fixture(scope="module", params=KINDS)
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with server(request.param) as one:
        found = SyncManager.from_address(one.url())
        yield found
        found._session.close()


@pytest.fixture
def alarm() -> Iterator[None]:
    def handle(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handle)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(function: Callable[[Any], Any], argument: Any, moment: float) -> list[Any]:
    """Call a function, and a handler that raises after `moment` seconds; [] if it did not return.

    Between the call and the list that keeps what it returned there is no code in Python, in which
    the handler could raise.
    """
    returned: list[Any] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, moment)
        returned.extend(map(function, (argument,)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        repr(returned)  # a handler that is due runs now, at the latest
    except Interrupt:
        pass
    return returned


@pytest.fixture
def moments() -> Callable[[], float]:
    found = random.Random(7)
    return lambda: max(1e-6, found.random() * LATEST)


@pytest.mark.parametrize("rival", [False, True], ids=["alone", "with a rival"])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_locks(
    manager: Any, alarm: None, moments: Callable[[], float], kind: str, rival: bool
) -> None:
    lock, census = getattr(manager, kind)(), ValkeyCensus(manager._session)
    key, held = manager._session.key_of(lock._id), manager._session.life._held
    over = threading.Event()

    def take_by_turns() -> None:
        while not over.is_set():
            lock.acquire()
            lock.release()

    other = threading.Thread(target=take_by_turns, daemon=True)
    if rival:
        other.start()
    taken = cut = 0
    try:
        for _ in range(ROUNDS):
            if not interrupted(lock.acquire, True, moments()):
                cut += 1
                assert rival or not (held.get(key) or lock.locked())
                continue
            taken += 1
            if not interrupted(lambda _: lock.release(), None, moments()):
                cut += 1
                mine = held.get(key, {}).get(manager._session.life.thread())
                if mine is not None:  # the handler has raised before the call began
                    lock.release()
    finally:
        over.set()
        if rival:
            other.join(DEADLINE)
    assert taken and cut and not other.is_alive()
    assert census.waiters() == [] and held.get(key) is None
    assert manager._session.life._owed == []
    assert in_thread(lambda: (lock.acquire(False), lock.release())) == (True, None)
    assert not [key for key in census.all_keys() if b":w:" in key]


@pytest.mark.parametrize("rival", [False, True], ids=["alone", "with a rival"])
def test_queues(manager: Any, alarm: None, moments: Callable[[], float], rival: bool) -> None:
    q, census = manager.Queue(3), ValkeyCensus(manager._session)
    got: list[int] = []
    by_rival: list[int] = []
    put, perhaps = set(), set()

    def drain() -> None:
        while (item := q.get()) != "end":
            by_rival.append(item)

    other = threading.Thread(target=drain, daemon=True)
    if rival:
        other.start()
    for item in range(ROUNDS):
        (put if interrupted(q.put, item, moments()) else perhaps).add(item)
        if not rival:
            while len(got) < len(put) + len(perhaps) and not q.empty():
                got += interrupted(q._callmethod, "get", moments())
    if rival:
        q.put("end")
        other.join(DEADLINE)
        assert not other.is_alive()
    else:
        with pytest.raises(Empty):
            while True:
                got.append(q.get(False))
    found = got + by_rival
    assert put and perhaps
    assert len(set(found)) == len(found) and put <= set(found) <= put | perhaps
    assert census.waiters() == [] and manager._session.life._owed == []
    assert not [key for key in census.all_keys() if b":w:" in key or key.endswith((b":x", b":v"))]
