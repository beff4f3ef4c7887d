"""Values in a Valkey server: each comes back as it was, and no bytes hurt the reader."""

import contextlib
import enum
import math
import struct

import pytest
from hypothesis import example, given, settings, strategies as st

from fastmgr.engines.valkey.values import decode, encode, references
from fastmgr.stock.dialect import Token
from fastmgr.wire.codec import WireError

ADDRESS = "valkey://example:6379/0?ns=app"


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    __slots__ = ()


class Row(list):
    pass


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.integers(2**63 - 2, 2**63 + 2)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
VALUES = st.recursive(
    SCALARS | st.builds(Word, st.text()) | st.just(Colour.RED) | st.builds(bytearray, st.binary()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(Row, st.lists(inner, max_size=3))
        | st.dictionaries(SCALARS | st.tuples(SCALARS, SCALARS), inner, max_size=3)
        | st.frozensets(SCALARS, max_size=3)
    ),
    max_leaves=6,
)


def same(a, b):
    """Equal, with equal types all the way down, and floats by their bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a == b and same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    return a == b


@settings(max_examples=200, deadline=None)
@given(VALUES)
@example("\ud800")
@example(-0.0)
@example(math.inf)
@example(5e-324)
def test_values_come_back(value):
    assert same(decode(encode(value)), value)


def test_nan_comes_back():
    for value in (math.nan, -math.nan):
        found = decode(encode(value))
        assert math.isnan(found) and math.copysign(1, found) == math.copysign(1, value)


@pytest.mark.parametrize(
    "value, bare",
    [(0, b"0"), (-1, b"-1"), (2**63 - 1, b"9223372036854775807"), (-(2**63), b"-%d" % 2**63)],
)
def test_the_server_can_add_to_an_int_of_64_bits(value, bare):
    assert encode(value) == bare


@pytest.mark.parametrize("value", [2**63, True, 1.0, "1", b"1", (1,), Colour.RED])
def test_no_other_value_looks_like_an_int(value):
    assert not encode(value)[:1].isdigit() and encode(value)[:1] != b"-"


def test_a_float_is_spelled_as_the_library_spells_it():
    assert encode(0.1 + 0.2) == b"f0.30000000000000004" and encode(-math.inf) == b"f-inf"


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_foreign_bytes_are_refused(data):
    if data[:1] in (b"p", b"R"):
        data = b"q" + data
    with contextlib.suppress(WireError, ValueError):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"x", b"-", b"1x", b"Nothing", b"w", b"w\x01\x01", b"1_0x"])
def test_what_is_no_value_of_ours_is_an_error(data):
    with pytest.raises(WireError):
        decode(data)


def test_a_value_says_which_objects_it_names():
    first, second = Token("dict", ADDRESS, "dict-1"), Token("list", ADDRESS, "n:%C3%A9")
    data = encode([first, (second, first)], ADDRESS)
    assert references(data) == ["dict-1", "n:%C3%A9"] and ADDRESS.encode() not in data
    found = decode(data, "valkey://elsewhere:1")
    assert found[0] is found[1][1] and found[0].id == "dict-1"
    assert found[1][0].address == "valkey://elsewhere:1" and found[1][0].typeid == "list"


def test_objects_of_other_servers_are_not_counted():
    token = Token("dict", "/tmp/socket", "1")
    assert references(encode([token], ADDRESS)) == []
    assert decode(encode(token, ADDRESS), ADDRESS).address == "/tmp/socket"
