"""Clients that are killed, or end in order, while others wait for what they hold."""

from __future__ import annotations

import gc
import struct
import sys
import threading
from typing import Any

import pytest
from support import DEADLINE, Address, Script, at_rest, in_thread, poll, say
from support.waiters import Start, WaiterManager, call, manager_at, take_and_give

from fastmgr.link.cutter import Op
from fastmgr.pipeline import Pipeline

pytestmark = pytest.mark.timeout(60)


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


@pytest.mark.usefixtures("own_server")
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


@pytest.mark.usefixtures("own_server")
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


@pytest.mark.usefixtures("own_server")
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


@pytest.mark.usefixtures("own_server")
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
@pytest.mark.usefixtures("own_server")
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
