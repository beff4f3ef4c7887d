"""Damaged files: nonsense in their records is refused, or can be used."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support.names import closed, look_at, names_in, started, survives, write

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters, grow
from fastmgr.kinds.rows import codec_of
from fastmgr.kinds.values import Value
from fastmgr.server.arenafile import EXTENT
from fastmgr.server.records import HEADER, LINE, RECORD

pytestmark = pytest.mark.timeout(90)


def test_a_file_that_is_read_as_written(path: str) -> None:
    write(
        path, (1, b"c", b"null", struct.pack("<q", -5)), (0, b"", b"", bytes(100)),
        (2, b"cs", b'["a"]', struct.pack("<q", 7)), (4, b"a", b'"h"', bytes([1, 0, 2, 0])),
    )  # fmt: skip
    names = names_in(path)
    assert names.objects["c"].get() == -5
    assert names.objects["cs"].as_dict() == {"a": 7}
    assert names.objects["a"].tolist() == [1, 2]
    closed(names)


WORD = struct.pack("<q", 1)
NONSENSE = {
    "kind": (9, b"n", b"null", WORD),
    "huge kind": (2**63, b"n", b"null", WORD),
    "size": (1, b"n", b"null", WORD * 2),
    "no size": (1, b"n", b"null", b""),
    "name": (1, b"\xff\xfe", b"null", WORD),
    "not json": (2, b"n", b"{", WORD),
    "json bytes": (2, b"n", b"\xff\xff\xff", WORD),
    "names twice": (2, b"n", b'["a", "a"]', WORD * 2),
    "names that are lists": (2, b"n", b"[[]]", WORD),
    "names in a text": (2, b"n", b'"ab"', WORD * 2),
    "names with values": (2, b"n", b'{"a": 1}', WORD),
    "names that are numbers": (2, b"n", b"[1, 2.5]", WORD * 2),
    "length that is a truth": (2, b"n", b"true", WORD),
    "no length": (2, b"n", b"null", WORD),
    "another length": (2, b"n", b"3", WORD),
    "negative length": (2, b"n", b"-1", WORD),
    "float length": (2, b"n", b"1.0", WORD),
    "long length": (2, b"n", b"99999999999999999999", WORD),
    "larger than memory": (2, b"n", b"1000000000000000", WORD),
    "length that wraps": (2, b"n", b"2305843009213693952", b""),
    "length that wraps to one": (2, b"n", b"2305843009213693953", WORD),
    "deep json": (2, b"n", b"[" * 100_000, WORD),
    "no typecode": (4, b"n", b"null", WORD),
    "unknown typecode": (4, b"n", b'"x"', WORD),
    "text": (4, b"n", b'"u"', WORD),
    "long typecode": (4, b"n", b'"ii"', WORD),
    "number for a typecode": (4, b"n", b"5", WORD),
    "odd size": (4, b"n", b'"i"', WORD[:7]),
    "more of nothing": (5, b"n", b"3", WORD * 3),
}


@pytest.mark.filterwarnings("ignore:The 'u' type code:DeprecationWarning")
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(path: str, what: str) -> None:
    write(path, NONSENSE[what])
    with pytest.raises(ValueError, match="no arena of fastmgr's, or it is damaged"):
        closed(names_in(path))


@pytest.mark.parametrize(
    ("kind", "about", "more"),
    [
        (2, b'["a"]', b"1"), (2, b"1", b'["a"]'), (2, b'["a"]', b'["a"]'), (1, b"null", b"1"),
        (4, b'"q"', b"1"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_have_grown_is_refused(
    path: str, kind: int, about: bytes, more: bytes
) -> None:
    write(path, (kind, b"n", about, WORD), (5, b"n", more, WORD))
    with pytest.raises(ValueError, match="nonsense"):
        closed(names_in(path))


def test_a_row_that_has_grown_often_is_put_together_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time would cost as much as the row is long then."""
    rows = [(5, b"n", b'["k%d"]' % i, struct.pack("<q", i)) for i in range(1, 500)]
    write(path, (2, b"n", b'["k0"]', WORD), *rows)
    calls: list[int] = []

    def noted(*args: Any) -> None:
        calls.append(len(args))
        grow(*args)

    codec = codec_of(Counters)._replace(grow=noted)
    monkeypatch.setattr("fastmgr.server.arenafile.codec_of", lambda kind: codec)
    kept = names_in(path)
    assert calls == [500]
    assert kept.objects["n"].as_dict() == {"k0": 1} | {f"k{i}": i for i in range(1, 500)}
    closed(kept)


@pytest.mark.parametrize("end", [0, 1, 63, 65, 128, EXTENT + 64, 2**63, 2**64 - 64])
def test_an_end_that_is_none(path: str, end: int) -> None:
    write(path, (1, b"n", b"null", WORD), end=end)
    with pytest.raises(ValueError, match="damaged"):
        closed(names_in(path))


@pytest.mark.parametrize(("at", "data"), [(8, b"\xc0"), (16, b"x"), (3 * EXTENT, b"last")])
def test_a_file_that_begins_with_zeros_is_not_overwritten(path: str, at: int, data: bytes) -> None:
    before = bytes(at) + data
    Path(path).write_bytes(before)
    with pytest.raises(ValueError, match="its first bytes are others"):
        closed(names_in(path))
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("size", [1, 63, 64, 128])
def test_a_file_cut_off(path: str, size: int) -> None:
    write(path, (1, b"n", b"null", WORD))
    data = Path(path).read_bytes()
    Path(path).write_bytes((data + data)[:size])
    with pytest.raises(ValueError, match="damaged"):
        closed(names_in(path))


@pytest.mark.parametrize("size", [0, 1, 64, EXTENT, EXTENT + 1, 3 * EXTENT])
def test_a_server_killed_before_the_first_record_leaves_a_new_file(path: str, size: int) -> None:
    for end in (0, LINE):
        head = bytes(8) + struct.pack("<Q", end)
        Path(path).write_bytes(head[:size] + bytes(max(0, size - len(head))))
        names = names_in(path)
        look_at(names)
        closed(names)


def test_a_damaged_file_does_not_keep_the_manager(path: str) -> None:
    write(path, NONSENSE["kind"])
    manager = started(path)
    with pytest.raises(ValueError, match="damaged"):
        manager.start()
    assert manager._process.exitcode is not None


def test_words_that_mean_nothing_are_read_as_none(path: str) -> None:
    """Clients may have written anything into a value."""
    for word in (0xFFFC << 48, 0xFFFF << 48, 2**64 - 1, (0xFFFB << 48) + 3):
        write(path, (3, b"v", b'"i"', struct.pack("<Q", word)))
        names = names_in(path)
        assert names.objects["v"].get() is None
        assert names.objects["v"].exchange(3) is None
        assert names.objects["v"].get() == 3
        closed(names)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with one of each kind, up to the end of its records."""
    path = str(tmp_path_factory.mktemp("arena") / "sound")
    names = names_in(path)
    names.get("counter", Counter, (5,))
    names.get("by name", Counters, (["a", "b"],))
    names.get("by index", Counters, (12,))
    names.get("value", Value, ("d", 2.5))
    names.get("array", Array, ("i", range(30)))
    assert names.file is not None
    end = names.file.end
    closed(names)
    return Path(path).read_bytes()[:end]


nasty = st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**64 - 64, 2**32, LINE, EXTENT, 2**61])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=9))
        | st.tuples(st.integers(0, 2**13).map(lambda n: n * 8), nasty),
        min_size=1,
        max_size=5,
    )
)
@example([(64, 2**64 - 1)])
@example([(8, 2**64 - 64)])
def test_any_change_of_a_file_is_survived(path: str, sound: bytes, changes: list[Any]) -> None:
    data = bytearray(sound)
    for at, change in changes:
        new = change if isinstance(change, bytes) else struct.pack("<Q", change)
        at %= len(data) - len(new)
        data[at : at + len(new)] = new
    Path(path).write_bytes(bytes(data) + bytes(-len(data) % EXTENT))
    survives(path)


def test_any_digit_of_a_file_is_survived(path: str, sound: bytes) -> None:
    """Where the text says how much there is, other digits make it more."""
    rng = random.Random(5)
    places = [i for i, byte in enumerate(sound) if chr(byte) in '0123456789"[]{},null']
    for _ in range(300):
        data = bytearray(sound)
        for at in rng.sample(places, 2):
            data[at] = ord(rng.choice('0123456789-.e"[]{} '))
        Path(path).write_bytes(bytes(data) + bytes(-len(data) % EXTENT))
        survives(path)


def test_records_are_plain(sound: bytes) -> None:
    """Format 2 stays what it is: files are older than the code that reads them."""
    assert sound.startswith(b"fmarena2")
    assert (LINE, EXTENT, HEADER.format, RECORD.format) == (64, 1 << 20, "<8sQ", "<QQQQ")
    assert RECORD.unpack_from(sound, 64) == (1, 7, 4, 8)
    assert sound[128:135] == b"counter"
    assert json.loads(sound[192:196]) is None
    assert struct.unpack_from("<q", sound, 256) == (5,)
