"""What metrics count in: it is on the server, or owed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import KEY, ProbeManager

from fastmgr.contrib import series
from fastmgr.contrib.values import Ledger, OwnGauge, Value

ABOUT = ("hits", "hits_total", ("path",), ("/",), "Hits")


def ledger(manager: ProbeManager, name: str) -> Ledger:
    return Ledger(series.Series(manager.address, KEY, name))


def test_values_of_one_series(manager: ProbeManager, request: pytest.FixtureRequest) -> None:
    one, other = (ledger(manager, request.node.name) for _ in range(2))
    a, b = one.value("counter", *ABOUT), other.value("counter", *ABOUT)
    assert type(a) is Value and a.is_at_hand()
    a.inc(1)
    b.inc(0.5)
    assert a.get() == b.get() == 1.5
    b.set(0)
    assert a.get() == 0.0 and a.get_exemplar() is None and not one.owing
    own: Any = one.value("gauge", "g", "g", (), (), "", multiprocess_mode="liveall")
    assert type(own) is OwnGauge
    own.set(3)
    own.inc(-1)
    assert own.get() == own.mine == 2.0
    manager.forget(request.node.name)


def test_what_cannot_be_counted_is_owed_and_told_once(
    manager: ProbeManager,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever goes wrong: here another key is needed from some time on."""
    monkeypatch.setattr(series, "PAUSE", 0.0)
    books = ledger(manager, request.node.name)
    books.series.authkey = b"wrong"
    caplog.set_level(logging.WARNING)
    values = [books.value("counter", *ABOUT), books.value("summary", *ABOUT)]
    for value in values:
        value.inc(2)
        assert value.get() == 2.0
    assert len(books.owing) == 2
    books.series.authkey = KEY
    values[0].inc(1)
    assert not books.owing and [value.get() for value in values] == [3.0, 2.0]
    away, back = (record.message for record in caplog.records)
    assert "AuthenticationError" in away and "is back" in back
    manager.forget(request.node.name)


def test_a_reset_while_the_server_is_away(
    manager: ProbeManager, request: pytest.FixtureRequest
) -> None:
    books = ledger(manager, request.node.name)
    value = books.value("counter", *ABOUT)
    value.inc(2)
    books.series.begin_process()  # no server is known
    books.series.retry_at = float("inf")
    value = books.value("counter", *ABOUT)
    value.inc(5)
    value.set(0)
    assert value.get() == 0.0
    books.series.retry_at = 0.0
    value.inc(1)
    assert value.get() == 3.0  # what was counted at the server, which nobody could ask
    manager.forget(request.node.name)


def test_a_child_owes_nothing(manager: ProbeManager, request: pytest.FixtureRequest) -> None:
    books = ledger(manager, request.node.name)
    books.series.retry_at = float("inf")
    value = books.value("counter", *ABOUT)
    value.inc(5)
    assert value.owed == 5.0
    books.begin_process()  # as after a fork
    value.inc(1)
    assert value.get() == value.mine == 1.0
    manager.forget(request.node.name)
