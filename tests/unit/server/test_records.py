"""The format of a file of named objects, on bytes alone."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fastmgr.server.records import FILLING, LINE, RECORD, Draft, Record, read, write_filling


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**64 - 1),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=90),
            st.one_of(st.none(), st.integers(), st.lists(st.text("ab", max_size=40), max_size=4)),
            st.integers(0, 200),
        ),
        max_size=4,
    ),
    st.integers(1, 3),
)
def test_what_is_written_is_read(wanted: list[tuple[int, str, object, int]], gap: int) -> None:
    data, at, expected = bytearray(64 * LINE), LINE, []
    for number, name, about, size in wanted:
        draft = Draft(number, name, about, size)
        draft.write(memoryview(data), at)
        expected.append(Record(at, number, name, about, at + draft.data_at, size))
        at += draft.end
        write_filling(memoryview(data), at, gap * LINE)
        at += gap * LINE
    assert list(read(memoryview(data), at)) == expected
    if at > 2 * LINE:
        with pytest.raises(ValueError, match="does not end in it"):
            list(read(memoryview(data), at - 1))


@pytest.mark.parametrize("about", [b"", b"[1", b"\xff", b'"\\u'])
def test_nonsense_is_refused(about: bytes) -> None:
    head = RECORD.pack(1, 0, len(about), 0).ljust(LINE, b"\0")
    data = memoryview(bytes(LINE) + head + about.ljust(LINE if about else 0, b"\0"))
    with pytest.raises(ValueError, match="the record at 64 says nonsense"):
        list(read(data, len(data)))


def test_a_length_beyond_all_bounds_is_refused() -> None:
    for sizes in [(2**64 - 1, 0, 0), (0, 2**63, 2**63), (0, 0, 1)]:
        data = memoryview(bytes(LINE) + RECORD.pack(FILLING, *sizes).ljust(LINE, b"\0"))
        with pytest.raises(ValueError, match="does not end in it"):
            list(read(data, len(data)))
