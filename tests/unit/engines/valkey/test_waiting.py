"""One call that waits: lost tokens, lost connections, interrupts."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted import KEY, ScriptedSession

from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError
from fastmgr.engines.valkey.waiting import Wait, counted, timeout_of


def wait(*replies: Any) -> tuple[Wait, ScriptedSession]:
    session = ScriptedSession(*replies)
    return Wait(session, KEY, b"lock"), session


def test_a_token_ends_the_wait() -> None:
    waiter, session = wait([2, 0], [b"list", b"G 7"])
    assert waiter.begin(b"lock_acquire") == [1]
    assert session.functions == [b"fm1_lock_acquire", b"BLPOP"]
    assert session.asked[1][1] == KEY + b":w:" + waiter.name


@pytest.mark.parametrize(
    "silence", [None, ReplyError(b"UNBLOCKED by a failover"), ConnectionLost("cut", None)], ids=str
)
def test_a_waiter_that_hears_nothing_looks(silence: Any) -> None:
    waiter, session = wait([2, 3], silence, [2, 0], None, [1, 7])
    assert waiter.begin(b"lock_acquire") == [1, 7]
    looks = [b"BLPOP", b"fm1_lock_look"] * 2
    assert session.functions == [b"fm1_lock_acquire", *looks]


@pytest.mark.parametrize(("is_seen", "found"), [(True, [1]), (False, None)])
def test_a_lost_token_is_a_grant_if_the_session_lives(is_seen: bool, found: Any) -> None:
    waiter, session = wait([2, 0], None, [3])
    session.life.seen = is_seen
    assert waiter.begin(b"lock_acquire") == found


def test_the_server_decides_whether_a_grant_came_before_the_timeout() -> None:
    for reply, found in (([0], None), ([1, 7], [1, 7])):
        waiter, session = wait([2, 0], reply)
        assert waiter.begin(b"lock_acquire", timeout=0) == found
        assert session.functions == [b"fm1_lock_acquire", b"fm1_lock_expire"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionLost("cut", None)], ids=repr)
def test_who_does_not_know_what_was_granted_gives_it_back(error: BaseException) -> None:
    waiter, session = wait(error, [0])
    with pytest.raises(type(error)):
        waiter.begin(b"lock_acquire")
    assert session.functions == [b"fm1_lock_acquire", b"fm1_lock_withdraw"]
    assert {words[4] for words in session.asked} == {waiter.name}


def test_an_error_of_the_server_leaves_nothing_to_give_back() -> None:
    waiter, session = wait(ReplyError(b"FM GONE it is gone"))
    with pytest.raises(Exception, match="gone"):
        waiter.begin(b"lock_acquire")
    assert session.functions == [b"fm1_lock_acquire"]


def test_a_server_that_stays_away_is_told_later() -> None:
    cut = ConnectionLost("cut", None)
    waiter, session = wait([2, 0], None, cut, cut, [0])
    waiter.patience = -1.0
    with pytest.raises(ConnectionLost):
        waiter.begin(b"lock_acquire")
    assert session.functions == [b"fm1_lock_acquire", b"BLPOP", b"fm1_lock_look"]
    session.replies = [[0]]
    session.life._pay(session)
    assert session.functions[-1] == b"fm1_lock_withdraw"


def test_numbers() -> None:
    assert (timeout_of(None), timeout_of(1.5), counted(2.0)) == (None, 1.5, 2)
    for wrong in (lambda: timeout_of(float("nan")), lambda: counted(2.5)):
        with pytest.raises(ValueError):
            wrong()
