"""Clients of locks, conditions and semaphores, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted import KEY, ScriptedSession

from fastmgr.engines.valkey import locks
from fastmgr.engines.valkey.errors import ConnectionLost

CONDITION = KEY + b":Condition-1"


def test_a_grant_after_a_wait_has_a_fence() -> None:
    session = ScriptedSession([2, 0], [b"list", b"G 7"])
    assert locks.acquire(session, KEY) is True
    assert session.life.fence(KEY) == 7
    assert session.asked[0][4:] == [session.asked[1][1].rpartition(b":")[2], b"1", b"L"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionLost("cut", None)], ids=repr)
def test_a_sleeper_that_is_interrupted_has_its_lock_again(error: BaseException) -> None:
    session = ScriptedSession([2, 0], error, [2, 0], [b"list", b"T 8"])
    if isinstance(error, ConnectionLost):  # it looks, for it may have been notified
        session.replies[2:2] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        locks.wait(session, CONDITION)
    assert session.functions[-2:] == [b"fm1_condition_withdraw", b"BLPOP"]
    assert {words[3] for words in session.asked if words[0] == b"FCALL"} == {CONDITION}


@pytest.mark.parametrize(("how", "found"), [(b"N", True), (b"T", False)])
def test_a_sleeper_learns_how_its_sleep_ended(how: bytes, found: bool) -> None:
    session = ScriptedSession([2, 0], [b"list", how + CONDITION + b" 8"])
    session.life.took(KEY, 7)
    assert locks.wait(session, CONDITION) is found
    assert session.life.fence(KEY) == 8


@pytest.mark.parametrize(
    "call",
    [
        lambda s: locks.acquire(s, KEY, False, 1),
        lambda s: locks.acquire(s, KEY, True, -2),
        lambda s: locks.acquire_permit(s, KEY, False, 1),
        lambda s: locks.release_permits(s, KEY, 0),
        lambda s: locks.make_semaphore(s, KEY, -1),
        lambda s: locks.release_permits(s, b"{fm:BoundedSemaphore-1}", 2**63),
    ],
)
def test_wrong_arguments_reach_no_server(call: Any) -> None:
    session = ScriptedSession()
    with pytest.raises(ValueError):
        call(session)
    assert session.asked == []


def test_more_permits_than_a_server_counts() -> None:
    for call in (locks.release_permits, locks.make_semaphore):
        with pytest.raises(OverflowError):
            call(ScriptedSession(), b"{fm:Semaphore-1}", 2**63)
