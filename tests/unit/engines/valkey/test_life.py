"""Requests that a session owes to the server."""

from __future__ import annotations

import pytest
from support.scripted import KEY, ScriptedSession

from fastmgr.engines.valkey.errors import ConnectionLost, LockLost


def test_a_wait_is_taken_back_when_the_server_is_there_again() -> None:
    session = ScriptedSession(ConnectionLost("cut", None), ConnectionLost("cut", None), [0], [0])
    life, request = session.life, [b"FCALL", b"fm1_lock_withdraw", 1, KEY, b"name"]
    assert life.withdraw(request) is None
    with pytest.raises(ConnectionLost):
        life._pay(session)
    life._pay(session)
    life._pay(session)  # nothing is owed any more
    assert session.asked == [request] * 3
    assert life.withdraw(request) == [0]
    life._pay(session)
    assert len(session.asked) == 4


def test_who_is_taken_for_dead_owes_nothing() -> None:
    session = ScriptedSession()
    session.life.owe([b"PING"])
    session.life.took(KEY, 1)
    before = session.id
    session.life._begin_another(session)
    session.life._pay(session)
    assert session.asked == [] and session.id != before
    with pytest.raises(LockLost):
        session.life.check(KEY)
