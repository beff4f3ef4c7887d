"""Floats in the words of a row: added to in memory, by whichever process."""

from __future__ import annotations

import pytest
from support import ProbeManager

import fastmgr
from fastmgr.client.floats import FloatWord, is_mapped, live_sessions, party_of


class Float(FloatWord):
    """One that notes what is added while its word is not at hand."""

    later = 0.0

    def add_later(self, step: float) -> None:
        self.later += step


def test_what_is_added_is_in_the_row(manager: ProbeManager) -> None:
    row = manager.Counters(3)
    one, other = Float(), Float()
    one.inc(7)
    assert (one.later, one.mine, one.load(), one.is_at_hand()) == (7.0, 0.0, None, False)
    assert row[0] == 0 and is_mapped(row)
    assert one.lie_in(row, 1) and other.lie_in(row, 1)
    one.inc(1)
    other.inc(0.5)
    assert one.add(2.0)
    assert (one.load(), one.mine, other.mine) == (3.5, 1.0, 0.5)
    assert row.snapshot() == [0, row[1], 0] and row[1] != 0
    assert one.replace_mine(10.0)
    assert (other.load(), one.mine) == (12.5, 10.0)
    assert other.store(1e300) and other.store_mine()
    assert (one.load(), other.mine) == (1e300, 1e300)


def test_a_float_that_is_not_there(manager: ProbeManager, off_manager: ProbeManager) -> None:
    row, far = manager.Counters(2), off_manager.Counters(2)
    assert len(row) == len(far) == 2
    one = Float()
    assert not one.lie_in(row, 2) and not one.lie_in(row, -1) and not one.lie_in(far, 0)
    assert not (one.add(1.0) or one.store(1.0) or one.store_mine() or one.replace_mine(1.0))
    assert one.load() is None and not is_mapped(far)
    with pytest.raises(TypeError):
        one.inc("1")  # type: ignore[arg-type]
    assert one.later == 0.0


def test_a_row_that_has_grown(manager: ProbeManager) -> None:
    row = manager.Counters(2, name="floats that grow")
    one = Float()
    assert len(row) == 2 and one.lie_in(row, 1)
    manager.Counters(4, name="floats that grow")
    assert one.lie_in(row, 3)
    one.inc(1)
    assert row[3] != 0


def test_a_closed_proxy_has_no_floats(manager: ProbeManager) -> None:
    row = manager.Counters(2)
    assert len(row) == 2
    one = Float()
    assert one.lie_in(row, 0)
    row._close()
    one.inc(1)
    assert one.later == 1.0


def test_order_of_one_way_calls_does_not_count(manager: ProbeManager) -> None:
    row = manager.Counters(2)
    assert len(row) == 2
    one = Float()
    assert one.lie_in(row, 0)
    fastmgr.oneway(row).incr(1)
    one.inc(1)
    assert one.later == 0.0 and one.load() == 1.0


def test_sessions_that_there_are(manager: ProbeManager, off_manager: ProbeManager) -> None:
    row, far = manager.Counters(1), off_manager.Counters(1)
    assert len(row) == len(far) == 1
    here = party_of(row)
    sessions = live_sessions(row)
    assert here is not None and sessions is not None and here[1] in sessions
    assert live_sessions(far) is None and party_of(far) is not None
