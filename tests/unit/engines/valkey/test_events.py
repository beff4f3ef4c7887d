"""Clients of events and barriers, without a server."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.scripted import ScriptedSession

from fastmgr.engines.valkey import events
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.values import encode
from fastmgr.stock.dialect import RemoteError

EVENT, BARRIER = b"{fm:Event-1}", b"{fm:Barrier-1}"


def test_an_event_that_is_set_while_the_timeout_ends() -> None:
    session = ScriptedSession([2, 0], [1])
    assert events.event_wait(session, EVENT, 0) is True
    assert session.asked[0][-1] == b"0"


def test_an_event_that_is_gone_says_so() -> None:
    session = ScriptedSession(None, ReplyError(b"FM GONE"))
    session.function = lambda *a, **k: (_ for _ in ()).throw(RemoteError("gone"))  # type: ignore[method-assign]
    with pytest.raises(RemoteError):
        events.event_is_set(session, EVENT)


def test_a_party_of_a_barrier_that_breaks_takes_nothing_back() -> None:
    session = ScriptedSession([2, 0], [b"list", b"B"])
    with pytest.raises(threading.BrokenBarrierError):
        events.barrier_wait(session, BARRIER)
    assert session.functions == [b"fm1_barrier_wait", b"BLPOP"]


def test_the_barriers_own_timeout_ends_a_wait() -> None:
    session = ScriptedSession([2, 0, b"0"], [0])
    with pytest.raises(threading.BrokenBarrierError):
        events.barrier_wait(session, BARRIER)
    assert session.functions == [b"fm1_barrier_wait", b"fm1_barrier_expire"]


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("action", "good"), [(int, 1), (fail, 0)])
def test_the_party_that_runs_the_action_says_how_it_ended(action: Any, good: int) -> None:
    state = [2, 1, 0, encode(action)]
    session = ScriptedSession([2, 0], [b"list", b"A0"], state, 1)
    if good:
        assert events.barrier_wait(session, BARRIER) == 0
    else:
        with pytest.raises(ZeroDivisionError):
            events.barrier_wait(session, BARRIER)
    assert session.asked[-1][1:2] + session.asked[-1][-1:] == [b"fm1_barrier_acted", good]
