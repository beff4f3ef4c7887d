"""Series in a row of counters: found by all, claimed once, whoever dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from support import KEY, ProbeManager

from fastmgr.contrib.series import (
    DONE,
    FIRST,
    LEAST,
    OWNER,
    PATIENCE,
    VALUE,
    Series,
    float_of,
    word_of,
)


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
    assert list(other.records.values()) == keys


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


def test_many_records_that_nobody_finishes(manager: ProbeManager, names: str) -> None:
    """As killed processes leave them: who comes waits for all of them together."""
    one = series(manager, names)
    for _ in range(400):
        assert one.row.compare_exchange(one.end, 0, 6 | 8 << 32)
        one.end += 6
    other = series(manager, names)
    begun = time.monotonic()
    other.place(b"a")
    assert time.monotonic() - begun < 100 * PATIENCE and len(other.unfinished) == 400


@pytest.mark.parametrize("header", [0, 1, 5000, -1, 6 | 25 << 32 | DONE])
def test_a_header_that_was_overwritten(
    manager: ProbeManager, names: str, header: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies behind it is found all the same, by who comes and by a scrape."""
    before = series(manager, names)
    keys = [letter * 20 for letter in (b"a", b"b", b"c")]
    places = [before.place(key) for key in keys]
    before.row[places[1]] = header
    comes, scrape = series(manager, names), series(manager, names)
    for _ in range(2):
        scrape.look(scrape.row.snapshot())
        assert list(scrape.records) == [places[0], places[2]]
    assert [comes.place(key) for key in keys] == [places[0], before.end, places[2]]
    assert before.place(b"d") == comes.place(b"d") == comes.end - 6
    said = [record.message for record in caplog.records]
    assert len(said) == 2 and all(f"at word {places[1]} ({header})" in text for text in said)


@pytest.mark.parametrize("header", [0, 7])
def test_the_last_header_was_overwritten(manager: ProbeManager, names: str, header: int) -> None:
    before = series(manager, names)
    at = before.place(b"a" * 20)
    before.row[at] = header
    comes = series(manager, names)
    assert comes.place(b"b") == before.end == before.place(b"b")


def test_what_is_known_is_noted_once(manager: ProbeManager, names: str) -> None:
    """Also when the row is lost while it is read."""
    one = series(manager, names)
    for header in (6 | 8 << 32, 6 | 8 << 32):
        assert one.row.compare_exchange(one.end, 0, header)
        one.look(one.row)
    words = one.row.snapshot()
    words[FIRST] |= DONE
    for _ in range(2):
        with pytest.raises(IndexError):
            one.look(words[: FIRST + 6])  # as far as it could be read
        assert list(one.records) == [FIRST]


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
