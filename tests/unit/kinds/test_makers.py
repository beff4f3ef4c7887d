"""Making counters, values and arrays: by name, and again from what a file keeps of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fastmgr.kinds import makers
from fastmgr.kinds.rows import Codec, Row
from fastmgr.memory.arena import state_size

MADE: list[tuple[Row, tuple[Any, ...]]] = [
    (makers.COUNTER, (5,)),
    (makers.COUNTERS, (3,)),
    (makers.COUNTERS, (["a", "b"],)),
    (makers.VALUE, ("d", 2.5)),
    (makers.VALUE, (None, True)),
    (makers.ARRAY, ("h", [1, 2, 3])),
]


def codec_of(row: Row) -> Codec:
    assert row.codec is not None
    return row.codec


def made(row: Row, *args: Any) -> Any:
    assert row.make is not None
    return row.make(*args)


def test_name_of_a_counter_in_the_place_of_its_number() -> None:
    with pytest.raises(TypeError, match="its name is name='hits'"):
        made(makers.COUNTER, "hits")


@pytest.mark.parametrize(("row", "args"), MADE)
def test_what_a_file_keeps_is_enough_to_make_the_object_again(row: Row, args: Any) -> None:
    codec, obj = codec_of(row), made(row, *args)
    again = codec.restore(json.loads(json.dumps(codec.about(obj, "n"))), "n")
    assert type(again) is type(obj)
    if row is not makers.ARRAY:  # whose length is that of the record
        assert state_size(again) == state_size(obj)
        assert codec.join(obj, again) is None
    assert codec.described(obj).startswith(row.label)


@pytest.mark.parametrize(("row", "args"), MADE)
def test_only_a_server_keeps_what_has_a_name(row: Row, args: Any) -> None:
    assert row.make is not None
    with pytest.raises(ValueError, match=r"'n'.* only a manager's server"):
        row.make(*args, name="n")


@pytest.mark.parametrize("about", ["ab", {"a": 1}, [1], ["a", None], True, None, 1.0, -1])
def test_a_files_nonsense_makes_no_counters(about: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec_of(makers.COUNTERS).restore(about, "n")


def spelled(row: Any) -> Any:
    return row and row.as_dict()


@pytest.mark.parametrize(
    ("kept", "wanted", "added"),
    [
        (["a"], {"a": 7, "b": 2}, {"b": 2}),
        (["a", "b"], ["b"], None),
        (["a"], 0, None),
        (2, 5, {0: 0, 1: 0, 2: 0}),
        (5, 2, None),
    ],
)
def test_counters_that_are_missing_are_added(kept: Any, wanted: Any, added: Any) -> None:
    rows = makers.Counters(kept), makers.Counters(wanted)
    assert spelled(codec_of(makers.COUNTERS).join(*rows)) == added


@pytest.mark.parametrize(
    ("row", "kept", "wanted", "error"),
    [
        (makers.COUNTERS, (["a", "b"],), (["a", "c"],), ValueError),  # renamed, or another row
        (makers.COUNTERS, (["a"],), (1,), ValueError),
        (makers.VALUE, ("i", 0), ("d", 0), TypeError),
        (makers.ARRAY, ("i", [0]), ("h", [0]), TypeError),
        (makers.ARRAY, ("i", [0]), ("i", [0, 0]), ValueError),
    ],
)
def test_what_is_not_the_kept_object_is_refused(
    row: Row, kept: Any, wanted: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        codec_of(row).join(made(row, *kept), made(row, *wanted))


def test_an_array_of_any_length_is_the_kept_one() -> None:
    codec = codec_of(makers.ARRAY)
    assert codec.join(makers.Array("i", [1, 2]), makers.Array("i", [])) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: (makers.COUNTERS, makers.Counters([1, 2])),  # JSON would make texts of these names
        lambda: (makers.VALUE, makers.Value(("i",), 0)),  # type: ignore[arg-type]
        lambda: (makers.VALUE, makers.Value("i", "text")),
        lambda: (makers.VALUE, makers.Value("i", 2**48)),
    ],
)
def test_what_a_file_cannot_hold_is_refused(make: Callable[[], tuple[Row, Any]]) -> None:
    row, obj = make()
    with pytest.raises(TypeError, match="'n'"):
        codec_of(row).about(obj, "n")
