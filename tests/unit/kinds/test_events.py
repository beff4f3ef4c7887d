"""Events wake all, and barriers those who came."""

from __future__ import annotations

import threading

import pytest
from support.places import Client, ParkManager, Place

pytestmark = pytest.mark.timeout(60)


def test_an_event_wakes_all(place: Place) -> None:
    event = place.Event()
    clients = [place.park(event.wait, *args) for args in ((), (60,), (None,))]
    event.set()
    assert [client.result() for client in clients] == [True] * 3
    assert event.wait() is True and event.wait(0) is True
    event.clear()
    assert event.wait(0.001) is False


# Barriers


def test_barrier_indexes_come_in_order_of_arrival(place: Place) -> None:
    barrier = place.Barrier(5)
    for _ in range(3):
        clients = []
        for i in range(4):
            assert barrier.n_waiting == i
            clients.append(place.park(barrier.wait))
        assert barrier.wait() == 4
        assert [client.result() for client in clients] == [0, 1, 2, 3]
        assert barrier.n_waiting == 0 and not barrier.broken


@pytest.mark.parametrize("breaking", ["abort", "timeout", "default timeout"])
def test_a_broken_barrier_lets_nobody_wait(place: Place, breaking: str) -> None:
    barrier = place.Barrier(4, None, 0.03 if breaking == "default timeout" else None)
    patient = place.park(barrier.wait, 60)
    if breaking == "abort":
        barrier.abort()
    else:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(*[0.03][: breaking == "timeout"])
    with pytest.raises(threading.BrokenBarrierError):
        patient.result()
    assert barrier.broken and barrier.n_waiting == 0
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    clients = [place.park(barrier.wait, 60) for _ in range(3)]
    assert barrier.wait() == 3
    assert [client.result() for client in clients] == [0, 1, 2]


def test_reset_sends_away_who_waits(place: Place) -> None:
    barrier = place.Barrier(3)
    clients = [place.park(barrier.wait) for _ in range(2)]
    barrier.reset()
    for client in clients:
        with pytest.raises(threading.BrokenBarrierError):
            client.result()
    assert not barrier.broken and barrier.n_waiting == 0


def test_a_barrier_with_an_action(park_manager: ParkManager) -> None:
    """The action is called in the server, once for each time it opens."""
    log = park_manager.list()
    barrier = park_manager.Barrier(3, log.reverse, None)
    log.extend([1, 2, 3])
    for expected in ([3, 2, 1], [1, 2, 3]):
        clients = [Client(barrier.wait) for _ in range(2)]
        clients.append(Client(barrier.wait))
        assert sorted(client.result() for client in clients) == [0, 1, 2]
        assert log[:] == expected
