"""A server whose wall clock jumps: nothing that is promised depends on it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.valkeys import Clock, Server, ValkeyCensus, server as start_server
from support.waiters import Start, call

from fastmgr.engines.valkey import waiting
from fastmgr.engines.valkey.life import sweep

HOUR = 3600
JUMPS = [HOUR, -HOUR]
Move = Callable[[int], None]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    # Debian's Redis has an allocator that does not start with a clock of ours.
    with start_server("valkey", env=clock.env) as server:
        yield server


@pytest.fixture
def move(server: Server, clock: Clock) -> Move:
    """Return what moves the server's clock, which the server then has seen."""

    def move_by(seconds: int) -> None:
        clock.move(seconds)
        poll(lambda: abs(time_of(server) - time.time() - seconds) < 60, "the clock has jumped")

    return move_by


def time_of(server: Server) -> float:
    return float(server.ask("TIME").split(b"\r\n")[2])


@pytest.mark.parametrize("jump", JUMPS)
def test_a_timeout_is_the_clients(
    manager: Any, census: ValkeyCensus, move: Move, jump: int
) -> None:
    """It ends no sooner, and not an hour later."""
    lock, q = manager.Lock(), manager.Queue()
    lock.acquire()

    def wait(function: Any, *args: Any) -> tuple[Any, float]:
        begun = time.monotonic()
        try:
            outcome = function(*args)
        except queue.Empty:
            outcome = "empty"
        return outcome, time.monotonic() - begun

    clients = [Client(wait, lock.acquire, True, 2), Client(wait, q.get, True, 2)]
    poll(lambda: census.parked() == 2, "they wait")
    move(jump)
    for client, expected in zip(clients, (False, "empty"), strict=True):
        outcome, spent = client.result()
        assert outcome == expected and 2 <= spent < 2 + waiting.SLACK + DEADLINE / 2


@pytest.mark.parametrize("jump", JUMPS)
def test_who_waits_is_served_after_a_jump(
    manager: Any, census: ValkeyCensus, move: Move, jump: int
) -> None:
    lock, q, event = manager.Lock(), manager.Queue(), manager.Event()
    lock.acquire()
    clients = [Client(lock.acquire), Client(q.get), Client(event.wait)]
    poll(lambda: census.parked() == 3, "they wait")
    move(jump)
    lock.release()
    q.put("item")
    event.set()
    assert [client.result() for client in clients] == [True, "item", True]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_living_holder_keeps_its_lock_and_a_dead_one_does_not(
    manager: Any, start: Start, move: Move, jump: int
) -> None:
    lock = manager.Lock()
    holder = start("holder", call, lock, "acquire", parks=False)
    assert holder.said() is True
    move(jump)
    sweep(manager._session)
    assert lock.acquire(True, 0.5) is False
    heir = Client(lock.acquire)
    holder.kill()
    assert heir.result() is True and lock.owner_died


def test_what_was_not_used_for_two_hours_is_still_there(manager: Any, move: Move) -> None:
    """As long as some process holds it (lithops PR 614: each key expired after one hour)."""
    things = {
        "dict": manager.dict(a=1), "list": manager.list([1]), "Value": manager.Value("O", 1),
        "Counter": manager.Counter(1, name="c"), "Namespace": manager.Namespace(a=1),
        "set": manager.set([1]), "Array": manager.Array("q", [1]), "Event": manager.Event(),
    }  # fmt: skip
    q, lock = manager.Queue(), manager.RLock()
    q.put(1)
    lock.acquire()
    before = {name: str(thing) for name, thing in things.items() if name != "Event"}
    move(2 * HOUR)
    sweep(manager._session)
    assert {name: str(thing) for name, thing in things.items() if name != "Event"} == before
    assert things["Event"].is_set() is False
    assert q.get(True, DEADLINE) == 1
    assert in_thread(lock.acquire, False) is False
    lock.release()
