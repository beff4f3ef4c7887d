"""`put_many` and `get_many`: what `put` and `get` of each item would do, in one call."""

from __future__ import annotations

import contextlib
import queue
import random
from fractions import Fraction
from typing import Any

import pytest
from support.places import Opaque, ParkManager, Place, outcome

from fastmgr.kinds import queues

pytestmark = pytest.mark.timeout(60)


def test_many_items_keep_their_order(place: Place) -> None:
    q = place.Queue()
    q.put_many([])
    q.put_many(("a", Opaque(1)))
    q.put_many(range(3), False)
    q.put_many(items=[None], timeout=1)
    assert q.get_many(2) == ["a", Opaque(1)]
    assert q.get_many(10**30) == [0, 1, 2, None]
    for _ in range(6):
        q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_items_that_are_made_one_by_one(park_manager: ParkManager) -> None:
    q = park_manager.Queue()
    q.put_many(i * i for i in range(3))
    assert q.get_many(5) == [0, 1, 4]


def test_what_cannot_be_asked_for(place: Place) -> None:
    q = place.Queue(1)
    q.put(1)
    for call, error in (
        (lambda: q.get_many(0), ValueError),
        (lambda: q.get_many(1.5), TypeError),
        (lambda: q.get_many(1, True, -1), ValueError),
        (lambda: q.put_many([2], True, -1), ValueError),
    ):
        assert outcome(call)[0] is error
    assert q.get() == 1
    for arguments in ((1, False), (1, True, 0.001)):
        with pytest.raises(queue.Empty):
            q.get_many(*arguments)


@pytest.mark.parametrize("arguments", [(False,), (True, 0.001)])
def test_full_says_how_many_were_put(place: Place, arguments: tuple[Any, ...]) -> None:
    q = place.Queue(3)
    for put in (3, 0):
        with pytest.raises(queue.Full) as caught:
            q.put_many("abcd", *arguments)
        assert caught.value.put == put  # type: ignore[attr-defined]
    assert q.get_many(9) == ["a", "b", "c"]


def test_many_items_wait_for_room_in_order(place: Place) -> None:
    q = place.Queue(2)
    first = place.park(q.put_many, list(range(7)))
    second = place.park(q.put, "last")
    assert q.qsize() == 2 and q.full()
    assert [q.get(), q.get(), *q.get_many(3)] == [0, 1, 2, 3, 4]
    assert first.result() is None
    assert q.get() == 5
    assert second.result() is None
    assert q.get_many(9) == [6, "last"]


def test_put_many_that_gives_up_has_put_what_there_was_room_for(place: Place) -> None:
    q = place.Queue(2)
    producer = place.park(q.put_many, list(range(5)), True, 1)
    assert q.get() == 0
    with pytest.raises(queue.Full) as caught:
        producer.result()
    assert caught.value.put == 3  # type: ignore[attr-defined]
    assert q.get_many(9) == [1, 2]


def test_each_who_waits_gets_items(place: Place) -> None:
    q = place.Queue()
    consumers = [place.park(q.get), place.park(q.get_many, 3), place.park(q.get_many, 3)]
    q.put_many(range(6))
    got = [consumer.result() for consumer in consumers]
    assert got[0] == 0 and got[1][0] == 1
    taken = [got[0], *got[1], *got[2], *(q.get_many(9) if not q.empty() else ())]
    assert all(items == sorted(items) for items in got[1:])
    assert sorted(taken) == list(range(6))
    consumer = place.park(q.get_many, 3)
    q.put("alone")
    assert consumer.result() == ["alone"]


@pytest.mark.skipif(not hasattr(queue, "ShutDown"), reason="queues cannot be shut down")
def test_shutdown_says_how_many_were_put(place: Place) -> None:
    shut_down = queue.ShutDown  # type: ignore[attr-defined]
    q = place.Queue(1)
    producer = place.park(q.put_many, "abc")
    q.shutdown()
    for call, put in ((producer.result, 1), (lambda: q.put_many("d"), 0)):
        with pytest.raises(shut_down) as caught:
            call()
        assert caught.value.put == put
    assert q.get_many(3) == ["a"]
    with pytest.raises(shut_down):
        q.get_many(3)
    q = place.Queue()
    consumer = place.park(q.get_many, 3)
    q.shutdown()
    with pytest.raises(shut_down):
        consumer.result()


def test_a_pipeline_of_many(park_manager: ParkManager) -> None:
    q = park_manager.Queue()
    with park_manager.pipeline() as pipe:
        pipe(q).put_many([1, Fraction(1, 2)])
        pipe(q).get_many(5)
        assert pipe.execute() == [None, [1, Fraction(1, 2)]]


def test_proxies_among_many_items(park_manager: ParkManager) -> None:
    """Nobody else holds them."""
    q = park_manager.Queue()
    q.put_many([park_manager.list([1]), 2, park_manager.dict(a=3)])
    items, two, d = q.get_many(5)
    assert (items[:], two, d["a"]) == ([1], 2, 3)


def put(q: Any, items: list[Any]) -> int:
    number = 0
    with contextlib.suppress(queue.Full):
        for item in items:
            q.put(item, False)
            number += 1
    return number


def put_many(q: Any, items: list[Any]) -> int:
    try:
        q.put_many(items, False)
    except queue.Full as error:
        return int(error.put)  # type: ignore[attr-defined]
    return len(items)


def get(q: Any, most: int) -> list[Any]:
    got: list[Any] = []
    with contextlib.suppress(queue.Empty):
        while len(got) < most:
            got.append(q.get(False))
    return got


def get_many(q: Any, most: int) -> list[Any]:
    try:
        got = q.get_many(most, False)
    except queue.Empty:
        return []
    return list(got)


@pytest.mark.parametrize("maxsize", [0, 1, 7])
def test_many_are_as_one_after_the_other(place: Place, maxsize: int) -> None:
    chance = random.Random(maxsize)
    ours, model = place.Queue(maxsize), queue.Queue(maxsize)  # type: queue.Queue[Any]
    for step in range(60):
        if chance.random() < 0.5:
            items = [(step, i) for i in range(chance.randrange(5))]
            way = chance.choice((put, put_many))
            assert way(ours, items) == put(model, items)
        else:
            most = chance.randrange(1, 6)
            assert chance.choice((get, get_many))(ours, most) == get(model, most)
        assert ours.qsize() == model.qsize()


def test_a_list_of_many_needs_no_worker(park_manager: ParkManager) -> None:
    """More lists than are remembered of one value, and more than fits a value without pickle."""
    q = park_manager.Queue()
    for items in ([[i] for i in range(500)], [b"%d" % i * 2000 for i in range(1000)]):
        q.put_many(items)
        assert q.get_many(len(items)) == items


def test_a_queue_of_this_process_has_them() -> None:
    q = queues.Queue(2)
    q.put_many("ab")
    assert q.get_many(1) == ["a"] and q.qsize() == 1
