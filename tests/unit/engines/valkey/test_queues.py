"""Clients of queues: items whose fate an interrupt, or a reply that was lost, leaves open."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from support.scripted import ScriptedSession

from fastmgr.engines.valkey import queues
from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError

KEY = b"{fm:Queue-1}"


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The items whose references were returned."""
    found: list[Any] = []
    monkeypatch.setattr(queues, "release", lambda session, key, values: found.extend(values))
    return found


@pytest.mark.parametrize(
    ("error", "reply", "is_known"),
    [
        (KeyboardInterrupt(), [0], True),  # it was not put
        (KeyboardInterrupt(), [1], False),  # it was, or nobody knows
        (KeyboardInterrupt(), ConnectionLost("cut", None), False),
        (ConnectionLost("cut", None), [0], True),
    ],
    ids=repr,
)
def test_references_of_an_item_are_returned_if_it_was_not_put(
    released: list[Any], error: BaseException, reply: Any, is_known: bool
) -> None:
    session = ScriptedSession(error, reply)
    with pytest.raises(type(error)):
        queues.put(session, KEY, 1)
    assert session.functions == [b"fm1_queue_put", b"fm1_put_withdraw"]
    assert released == ([b"1"] if is_known else [])


def test_a_queue_that_is_full_takes_no_references(released: list[Any]) -> None:
    session = ScriptedSession(ReplyError(b"FM FULL"))
    with pytest.raises(queue.Full):
        queues.put_nowait(session, KEY, 1)
    assert released == [b"1"]


@pytest.mark.parametrize(
    ("error", "reply", "left"),
    [
        (KeyboardInterrupt(), [0, 1], [b"2", b"3"]),  # one was put
        (KeyboardInterrupt(), [0], [b"1", b"2", b"3"]),
        (KeyboardInterrupt(), [1], []),  # all were, or nobody knows
        (KeyboardInterrupt(), ConnectionLost("cut", None), []),
    ],
    ids=repr,
)
def test_references_of_the_items_are_returned_that_were_not_put(
    released: list[Any], error: BaseException, reply: Any, left: list[bytes]
) -> None:
    session = ScriptedSession(error, reply)
    with pytest.raises(type(error)):
        queues.put_many(session, KEY, [1, 2, 3])
    assert session.functions == [b"fm1_queue_put_many", b"fm1_put_withdraw"]
    assert released == left


def test_many_that_find_no_room_take_no_references(released: list[Any]) -> None:
    with pytest.raises(queue.Full) as caught:
        queues.put_many(ScriptedSession([1, 1]), KEY, [1, 2, 3], False)
    assert caught.value.put == 1  # type: ignore[attr-defined]
    assert released == [b"2", b"3"]


def test_many_of_a_session_that_was_taken_for_dead_are_put_once() -> None:
    """Those that were put are not put again, and count where there is no room in the end."""

    class Another(ScriptedSession):
        def ask(self, words: Any, reads: bool = False, timeout: float | None = None) -> Any:
            self.id = b"00000000000000bb"
            return super().ask(words, reads, timeout)

    session = Another([2, 0], [3, 1], [1, 1])
    with pytest.raises(queue.Full) as caught:
        queues.put_many(session, KEY, [1, 2, 3])
    assert caught.value.put == 2  # type: ignore[attr-defined]
    first, _, again = session.asked
    assert (first[-3:], again[-2:]) == ([b"1", b"2", b"3"], [b"2", b"3"])


def test_a_reply_that_was_lost_comes_again(engines_manager: Any) -> None:
    """What timed out was not put, however often the client has to ask; what was got is the same."""
    q, session = engines_manager.Queue(2), engines_manager._session
    session.life.begin()
    key = session.key_of(q._id)

    def ask(function: bytes, name: bytes, *args: Any) -> Any:
        return session.ask([b"FCALL", b"fm1_" + function, 1, key, name, *args])

    one, many, getter = (session.life.name() for _ in range(3))
    q.put_many("ab")
    assert ask(b"queue_put", one, b"1", b"sc") == [2, 0]
    assert ask(b"queue_put_many", many, b"1", b"sd", b"se") == [2, 1]
    assert [q.get(False) for _ in range(3)] == ["a", "b", "c"]
    assert q.full()
    for name, expected in ((many, [1]), (one, [1])):
        assert ask(b"put_look", name) == expected
    late, later = (session.life.name() for _ in range(2))
    ask(b"queue_put", late, b"1", b"sx")
    ask(b"queue_put_many", later, b"1", b"sy", b"sz")
    for _ in range(2):
        assert ask(b"put_expire", late) == ReplyError(b"FM FULL")
        assert ask(b"put_expire", later) == [1, 0]
    assert ask(b"queue_get_many", getter, b"1", 5) == [1, b"sd", b"se"]
    assert ask(b"queue_look", getter, 5) == [1, b"sd", b"se"]
    assert ask(b"queue_withdraw", getter) == [0]
    assert q.get_many(5) == ["d", "e"]


def test_a_getter_that_is_woken_takes_the_item() -> None:
    session = ScriptedSession([2, 0], [b"list", b"I"], ConnectionLost("cut", None), [1, b"5"])
    waiter_patience = 5.0
    session.patience = waiter_patience
    assert queues.get(session, KEY) == 5
    look = b"fm1_queue_look"
    assert session.functions == [b"fm1_queue_get", b"BLPOP", look, look]


def test_a_putter_whose_session_was_taken_for_dead_learns_whether_its_item_was_put() -> None:
    for settled, found in (([1], [1]), ([3], None)):
        session = ScriptedSession(settled)
        putter = queues.PutterWait(session, KEY, b"put")
        session.id = b"00000000000000bb"
        assert putter.wait([2, 0]) == found
        assert session.functions == [b"fm1_put_settle"]
