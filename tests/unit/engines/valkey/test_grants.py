"""What a session's threads hold, and what they have lost."""

from __future__ import annotations

import gc
import weakref

import pytest
from support import in_thread
from support.scripted import KEY, ScriptedSession

from fastmgr.engines.valkey.errors import LockLost

RLOCK = b"{fm:RLock-0123456789abcdef}"


def test_a_lock_is_held_until_it_was_released_as_often_as_it_was_taken() -> None:
    life = (session := ScriptedSession()).life
    life.took(RLOCK, 7)  # which was released, as nobody knows
    life.took(RLOCK, 8)
    life.took(RLOCK, 8)
    assert life.grant(RLOCK) == [8, 2]
    life.gave(RLOCK)
    assert life.fence(RLOCK) == 8
    life.renewed(RLOCK, 9)  # after a sleep at a condition
    assert life.fence(RLOCK) == in_thread(lambda: life.fence(RLOCK)) == 9
    life.gave(RLOCK)
    assert life.fence(RLOCK) is None and not life._held
    life.gave(RLOCK)  # that of another process
    life.renewed(RLOCK, 10)
    assert life.fence(RLOCK) is None and session.asked == []


def test_a_release_is_the_holders_own_or_else_anothers() -> None:
    life = ScriptedSession().life
    life.took(KEY, 1)
    in_thread(lambda: life.took(KEY, 2))
    life.gave(KEY)
    assert life.fence(KEY) == 2  # that of the other thread, which goes on
    life.gave(KEY)
    assert life.fence(KEY) is None


def test_a_session_that_holds_a_lock_lives_on() -> None:
    session = ScriptedSession()
    life, there = session.life, weakref.ref(session)
    life.took(KEY, 1)
    del session
    gc.collect()
    assert there() is not None
    life.gave(KEY)
    gc.collect()
    assert there() is None


def test_a_loss_is_told_once_and_to_the_thread_that_held_the_lock() -> None:
    life = (session := ScriptedSession()).life
    for key in (KEY, RLOCK):
        life.took(key, 1)
        life.took(key, 1)
    life._begin_another(session)
    assert life.fence(KEY) is None
    in_thread(lambda: life.check(KEY))  # it held nothing, and may take the lock
    in_thread(lambda: life.check(RLOCK, gives=True))  # nor can it release what it does not own
    for key in (KEY, RLOCK):
        with pytest.raises(LockLost):
            life.check(key)
        life.check(key)
    life.took(KEY, 2)
    life._begin_another(session)
    with pytest.raises(LockLost):
        in_thread(lambda: life.check(KEY, gives=True))  # a Lock is released by any thread
    life.check(KEY)


def test_how_often_a_lost_lock_was_taken() -> None:
    life = (session := ScriptedSession()).life
    life.took(RLOCK, 1)
    life.took(RLOCK, 1)
    life._begin_another(session)
    assert (life.forget_lost(RLOCK), life.forget_lost(RLOCK)) == (2, 0)
    life.check(RLOCK)


def test_a_name_says_the_session_and_the_thread() -> None:
    session = ScriptedSession()
    (id_, thread, number), again = session.life.name().split(b"/"), session.life.name().split(b"/")
    assert id_ == session.id and again[:2] == [id_, thread] and int(again[2]) > int(number)
    assert in_thread(session.life.name).split(b"/")[1] != thread
