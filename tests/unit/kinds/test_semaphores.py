"""Semaphores: as many permits as there are, to those who came first."""

from __future__ import annotations

import sys

import pytest
from support.places import HUGE, Place, Stock, permits

from fastmgr.kinds import events, semaphores

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits_as_a_float(kind: str) -> None:
    semaphore = getattr(semaphores, kind)(2.0)
    assert [semaphore.acquire(False) for _ in range(3)] == [True, True, False]
    with pytest.raises(ValueError, match=r"1\.5: a whole number"):
        getattr(semaphores, kind)(1.5)
    assert events.Barrier(2.0).parties == 2  # type: ignore[arg-type]


def test_several_permits_are_released_at_once(place: Place) -> None:
    if isinstance(place, Stock):
        return  # whose proxies have no such argument
    semaphore, bounded = place.Semaphore(0), place.BoundedSemaphore(2)
    semaphore.release(2)
    assert permits(semaphore) == 2
    for n in (0, -1):
        with pytest.raises(ValueError, match="one or more"):
            semaphore.release(n)
    for n in (1.5, "2"):
        with pytest.raises(TypeError):
            semaphore.release(n)
    with pytest.raises(OverflowError):
        semaphore.release(HUGE)
    for n in (1, HUGE):
        with pytest.raises(ValueError, match="too many times"):
            bounded.release(n)
    assert permits(semaphore) == permits(bounded) == 2


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_permit_goes_to_who_came_first(place: Place, kind: str) -> None:
    semaphore = getattr(place, kind)(2)
    assert semaphore.acquire() and semaphore.acquire()
    clients = [place.park(semaphore.acquire) for _ in range(6)]
    for i, client in enumerate(clients):
        semaphore.release()
        assert client.result() is True
        place.await_parked(5 - i)
    semaphore.release()
    semaphore.release()
    assert semaphore.acquire(False) and semaphore.acquire(False)
    assert not semaphore.acquire(False)


def test_as_many_permits_as_can_be_counted() -> None:
    semaphore = semaphores.Semaphore(3)
    assert semaphore.acquire() and semaphore.acquire()
    with pytest.raises(OverflowError, match="release"):
        semaphore.release(sys.maxsize)
    semaphore.release(sys.maxsize // 2)  # not one step for each of them
    assert not semaphore.locked() and semaphore.acquire(False)


def test_many_permits_at_once() -> None:
    place = Place()
    semaphore = semaphores.Semaphore(0)
    clients = [place.park(semaphore.acquire) for _ in range(4)]
    semaphore.release(3)
    assert [client.result() for client in clients[:3]] == [True] * 3
    assert place.parked() == 1 and semaphore.locked()
    semaphore.release(2)
    assert clients[3].result() is True
    assert semaphore.acquire(False) and not semaphore.acquire(False)
