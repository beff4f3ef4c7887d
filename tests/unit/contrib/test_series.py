"""Series in a row of counters: found by all, claimed once, whoever dies."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import KEY, ProbeManager

from fastmgr.contrib.series import DONE, FIRST, LEAST, OWNER, VALUE, Series, float_of, word_of


@pytest.fixture
def names(manager: ProbeManager, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name that is free, until the test is over."""
    yield request.node.name
    manager.forget(request.node.name)


def series(manager: ProbeManager, name: str) -> Series:
    made = Series(manager.address, KEY, name)
    assert made.reach()
    return made


def test_a_key_has_one_place(manager: ProbeManager, names: str) -> None:
    one, other = series(manager, names), series(manager, names)
    place = one.place(b"a", initial=0.5, began=2.0)
    assert place == FIRST == other.place(b"a")
    assert float_of(other.row[place + VALUE]) == 0.5
    second = other.place("ключ".encode() * 5)
    assert one.place("ключ".encode() * 5) == second > place
    assert one.records == other.records and one.row_id == other.row_id != 0


def test_a_row_grows(manager: ProbeManager, names: str) -> None:
    one, other = series(manager, names), series(manager, names)
    keys = [str(i).encode() * 100 for i in range(40)] + [os.urandom(9 * LEAST)]
    places = [one.place(key) for key in keys]
    assert len(one.row) > 2 * LEAST and len(set(places)) == len(keys)
    assert [other.place(key) for key in keys] == places
    other.look(other.row.snapshot())
    assert [key for _, key in other.records] == keys


def test_a_record_that_nobody_finishes(manager: ProbeManager, names: str) -> None:
    """As a process leaves it that is killed when it has claimed room; and one that was slow."""
    one = series(manager, names)
    one.place(b"a")
    header = 9 | 25 << 32
    assert one.row.compare_exchange(one.end, 0, header)
    other = series(manager, names)
    assert other.place(b"b") == one.end + 9
    assert len(other.unfinished) == 1
    one.row[one.end] = header | DONE
    other.look(other.row)
    assert len(other.records) == 3 and not other.unfinished


@pytest.mark.parametrize("header", [1, 5000, -1, 6 | 25 << 32 | DONE])
def test_a_row_of_something_else(manager: ProbeManager, names: str, header: int) -> None:
    one = series(manager, names)
    one.row[FIRST] = header
    with pytest.raises(ValueError, match="something else"):
        one.place(b"a")


def test_a_name_that_is_in_use(manager: ProbeManager, names: str) -> None:
    manager.Counters([1], name=names)
    with pytest.raises(ValueError, match="in use"):
        series(manager, names)
    manager.forget(names)
    manager.Counters(4, name=names)[0] = 5
    with pytest.raises(ValueError, match="another row"):
        series(manager, names)


def test_who_lives(manager: ProbeManager, names: str) -> None:
    one = series(manager, names)
    me = one.party()
    assert one.living([me, 0, me + 1_000_000, me ^ 1 << 40]) == {me}
    assert one.row[one.place(b"a") + OWNER] == 0


def test_floats_and_words() -> None:
    for value in (0.0, -0.0, 1.5, -1e300, float("inf")):
        assert float_of(word_of(value)) == value
    assert word_of(0.0) == 0 and -(2**63) <= word_of(-1.0) < 0
