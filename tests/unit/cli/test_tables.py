"""Tables of reports: rates, orders, and what is shown."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.reports import report

from fastmgr.cli.tables import CLIENTS, LOCKS, OBJECTS, TABLES, Sight, Table, as_text
from fastmgr.monitor import ORDERS


def ids(sight: Sight, heading: str, is_reversed: bool = False) -> list[str]:
    rows = OBJECTS.column(heading).sorted(sight.rows(OBJECTS), is_reversed)
    return [row.now.id for row in rows]


def test_rates_are_growth_in_the_server_s_time() -> None:
    sight = Sight(report(14.0, calls=80), report(10.0))
    assert [row.rate("calls") for row in sight.rows(OBJECTS)] == [20.0, 0.0, 0.0]
    assert sight.server.rate("calls") == 20.0
    assert "20 calls/s" in sight.facts()


def test_rates_are_not_known_at_first_nor_across_a_restart() -> None:
    for before in (None, report(99.0, started=5e8), report(99.0, pid=78)):
        sight = Sight(report(), before)
        assert {row.rate("calls") for row in sight.rows(OBJECTS)} == {None}
        assert not any("calls/s" in fact for fact in sight.facts())


def test_new_objects_have_made_all_their_calls_since() -> None:
    none = replace(report().server, objects=0)
    sight = Sight(report(12.0), report(10.0, objects=(), server=none))
    assert [row.rate("calls") for row in sight.rows(OBJECTS)] == [500.0, 20.0, 1.5]


def test_rates_of_what_the_report_before_had_no_room_for_are_not_known() -> None:
    sight = Sight(report(12.0, calls=8), report(10.0, objects=report().objects[:1]))
    assert [row.rate("calls") for row in sight.rows(OBJECTS)] == [4.0, None, None]


def test_orders_that_are_asked_for_exist() -> None:
    assert {column.by for column in OBJECTS.columns} == set(ORDERS)


def test_orders() -> None:
    """The largest number and the first letter come first, what is not known last."""
    sight = Sight(report())
    assert ids(sight, "calls") == ["00b1", "00b2", "00a1"]
    assert ids(sight, "calls", True) == ["00a1", "00b2", "00b1"]
    assert ids(sight, "object") == ["00a1", "00b1", "00b2"]
    assert ids(sight, "items") == ids(sight, "items", True) == ["00b1", "00b2", "00a1"]
    assert len(ids(sight, "calls/s")) == 3


@pytest.mark.parametrize("table", TABLES)
def test_each_column_can_be_shown_and_sorted(table) -> None:  # type: ignore[no-untyped-def]
    rows = Sight(report(12.0), report(10.0)).rows(table)
    for column in table.columns:
        assert sorted(map(id, column.sorted(rows))) == sorted(map(id, rows))
    lines = as_text(table, rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[0].split("  ")[0] == table.name.removesuffix("s").replace("client", "process")


def test_what_is_shown() -> None:
    sight = Sight(report())
    said = " ".join(as_text(OBJECTS, sight.rows(OBJECTS)[:1]).split())
    assert said == (
        "object type calls/s calls errors mean in out waiters waited items references memory "
        "b1 dict 1,000 10 500 µs 4 KiB 8 KiB 0 0 s 17 2"
    )
    assert "10 s" in sight.facts()[-1]
    assert as_text(CLIENTS, sight.rows(CLIENTS)).count("\n") == 2


def test_locks_of_a_deadlock_are_marked() -> None:
    sight = Sight(report())
    assert [row.is_deadlocked for row in sight.rows(LOCKS)] == [True, True, False]
    assert as_text(LOCKS, sight.rows(LOCKS)).count("deadlock") == 3


@pytest.mark.parametrize("table", TABLES)
def test_narrow_tables(table: Table) -> None:
    """Columns for which there is no room are named, empty ones are not; the others stay."""
    rows = Sight(report()).rows(table)
    wide = as_text(table, rows).splitlines()
    assert as_text(table, rows, len(wide[0])).splitlines() == wide
    narrow = as_text(table, rows, 60).splitlines()
    assert max(map(len, narrow)) <= 60
    shown, said = narrow[0].split(), " ".join(narrow[len(wide) :])
    assert table.columns[0].heading == shown[0] and table.order in shown
    left_out = re.findall(r"[a-z]+(?=[,)])", said)
    assert list(table.least[: len(left_out)]) == left_out and not set(left_out) & set(shown)
