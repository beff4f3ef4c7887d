"""Keys in a Valkey server: equal ones have one field, unequal ones have two."""

import datetime
import enum
import math
import pathlib
import uuid
from collections import namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings, strategies as st

from fastmgr.engines.valkey.keys import decode_key, encode_both, encode_key

UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=2))


class Colour(enum.Enum):
    RED = "s"


class Number(enum.IntEnum):
    ONE = 1


class Word(str):
    __slots__ = ()


class Odd(str):
    __slots__ = ()

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Plain:
    pass


Pair = namedtuple("Pair", "a b")

SMALL = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64, float(2**53), 1e300, int(1e300)])
    | st.floats(-2, 2).map(lambda x: round(x * 2) / 2)
    | st.sampled_from([-0.0, math.inf, 0.1, Fraction(1, 3), Fraction(1, 2), Decimal("0.5")])
    | st.sampled_from([Decimal("1.00"), Decimal("Infinity"), Decimal("0.1"), 1 + 0j, 1j, 0.5 - 0j])
    | st.sampled_from(["1", b"1", "", b"", "N", b"N", "\ud800", Word("1"), Number.ONE, Colour.RED])
    | st.sampled_from([complex(-0.0, 1), uuid.UUID(int=1), int, len, Ellipsis])
    | st.sampled_from(
        [
            datetime.date(2020, 1, 1),
            datetime.datetime(2020, 1, 1),
            datetime.datetime(2020, 1, 1, tzinfo=UTC),
            datetime.datetime(2020, 1, 1, 2, tzinfo=EAST),
            datetime.timedelta(1),
            pathlib.PurePosixPath("a"),
        ]
    )
)
KEYS = st.recursive(
    SMALL,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.frozensets(inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None)
@given(KEYS, KEYS)
@example(1, True)
@example((1, (2.0,)), (True, (2,)))
@example(frozenset({1, "a"}), frozenset({"a", 1.0}))
@example(("a", "bc"), ("ab", "c"))
@example((1,), frozenset({1}))
@example(Pair(1, 2), (1, 2))
def test_equal_keys_have_equal_fields(one, other):
    assert (encode_key(one) == encode_key(other)) == (one == other)


def shown(key):
    """A text that tells types and signs, but not the order of a set."""
    if isinstance(key, (tuple, frozenset)):
        members = [shown(member) for member in key]
        return type(key), sorted(map(str, members)) if isinstance(key, frozenset) else members
    return type(key), repr(key)


@settings(max_examples=200, deadline=None)
@given(KEYS)
def test_keys_come_back(key):
    field, original = encode_both(key)
    found = decode_key(field, original)
    assert shown(found) == shown(key)


@pytest.mark.parametrize(
    "key", ["a", 1, 2**70, 0.5, None, b"x", (1, ("a",)), frozenset({2}), "\ud800"]
)
def test_the_field_of_a_plain_key_is_enough(key):
    assert encode_both(key)[1] == b""


def test_nan_is_one_key():
    assert encode_key(math.nan) == encode_key(-math.nan)


@pytest.mark.parametrize("key", [[], {}, (1, []), bytearray()])
def test_what_is_not_hashable_is_refused_as_by_a_dict(key):
    with pytest.raises(TypeError, match="unhashable type"):
        encode_key(key)


@pytest.mark.parametrize(
    "key, why", [(Odd("a"), "__eq__ of its own"), (Plain(), "equal to nothing")]
)
def test_what_no_server_can_compare_is_refused(key, why):
    with pytest.raises(TypeError, match=why):
        encode_key(key)
    with pytest.raises(TypeError, match=why):
        encode_key((1, key))
