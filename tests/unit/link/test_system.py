"""The poller, by either call of the system, and how long threads look before they sleep."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from model.compiled import compiled
from support import TESTS

probes = compiled("probes", TESTS / "support")

READ, WRITE, HANGUP = 1, 2, 4
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=[True, False], ids=["poll", "epoll where there is one"])
def poller(request: pytest.FixtureRequest) -> Any:
    return probes.Poller(request.param)


def test_what_is_ready(poller: Any, pair: Pair) -> None:
    ours, theirs = pair
    fd = ours.fileno()
    assert poller.set(fd, READ | HANGUP) == 0
    assert poller.wait() == {}
    theirs.send(b"x")
    assert poller.wait() == {fd: READ}
    assert poller.set(fd, READ | WRITE, is_new=False) == 0
    assert poller.wait() == {fd: READ | WRITE}
    assert poller.set(fd, 0, is_new=False) == 0
    assert poller.wait() == {}


def test_the_end_of_the_peer(poller: Any, pair: Pair) -> None:
    ours, theirs = pair
    poller.set(ours.fileno(), READ | HANGUP)
    theirs.close()
    assert poller.wait() == {ours.fileno(): READ | HANGUP}


def test_a_forgotten_descriptor_says_nothing(poller: Any, pair: Pair) -> None:
    for end in pair:
        poller.set(end.fileno(), WRITE)
    poller.forget(pair[0].fileno())
    assert poller.wait() == {pair[1].fileno(): WRITE}
    poller.set(pair[0].fileno(), WRITE)
    assert set(poller.wait()) == {end.fileno() for end in pair}


def test_more_descriptors_than_there_is_room_for(poller: Any) -> None:
    ends = [end for _ in range(50) for end in socket.socketpair()]
    for end in ends:
        assert poller.set(end.fileno(), WRITE) == 0
    assert len(poller.wait(room=7)) == 7
    for end in ends[:90]:
        poller.forget(end.fileno())
    assert set(poller.wait()) == {end.fileno() for end in ends[90:]}
    for end in ends:
        end.close()


@pytest.mark.parametrize("spare", [True, False])
def test_a_habit_that_does_not_pay_is_left_for_longer_each_time(spare: bool) -> None:
    assert probes.waits_that_look("." * 120, spare) == [0, 17, 50, 115]


def test_a_habit_that_pays_is_kept() -> None:
    assert probes.waits_that_look("x" * 100, True) == list(range(100))
