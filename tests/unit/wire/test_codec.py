"""The codec of the fast dialect: every value comes back as it was, and no bytes hurt the reader."""

import collections
import copyreg
import enum
import gc
import pickle
import random
import struct
import sys
import tracemalloc
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import pytest
from hypothesis import given, settings, strategies as st
from support.values import (
    DICT,
    INT_1,
    LIST,
    PICKLE,
    SET,
    STR,
    VALID,
    dumps_compact,
    only_wire_error,
)

from fastmgr.wire.codec import WireError, dumps, loads


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    __slots__ = ()


class Row(list):
    pass


class OwnError(KeyError):
    pass


class Point(NamedTuple):
    x: int
    y: int


def same(a, b):
    """Equal with the types equal all the way down, and floats by their bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (set, frozenset)):
        return a == b and collections.Counter(map(type, a)) == collections.Counter(map(type, b))
    if isinstance(a, slice):
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, BaseException):
        return same(a.args, b.args) and same(a.__dict__, b.__dict__)
    return a == b


def compact_round_trip(value):
    data = dumps_compact(value)
    assert data is not None
    back = loads(data, allow_pickle=False)
    assert same(back, value)
    return back


def pickled_round_trip(value):
    assert dumps_compact(value) is None
    data = dumps(value)
    assert data[0] == PICKLE
    with pytest.raises(WireError):
        loads(data, allow_pickle=False)
    return loads(data)


ERRORS = [
    KeyError, IndexError, ValueError, TypeError, StopIteration, ZeroDivisionError, RuntimeError,
    OverflowError, LookupError, ArithmeticError, NotImplementedError, AssertionError, EOFError,
]  # fmt: skip

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
keys = st.recursive(
    atoms, lambda k: st.lists(k, max_size=3).map(tuple) | st.frozensets(k, max_size=3), max_leaves=5
)
values = st.recursive(
    keys | st.builds(slice, keys, keys, keys) | st.binary().map(bytearray),
    lambda v: (
        st.lists(v, max_size=5)
        | st.lists(v, max_size=5).map(tuple)
        | st.dictionaries(keys, v, max_size=5)
        | st.sets(keys, max_size=5)
        | st.builds(
            lambda kind, args: kind(*args), st.sampled_from(ERRORS), st.lists(v, max_size=2)
        )
    ),
    max_leaves=20,
)


@settings(max_examples=60)
@given(values)
def test_any_built_in_value_round_trips_without_pickle(value):
    compact_round_trip(value)


@settings(max_examples=30)
@given(values)
def test_agrees_with_pickle(value):
    assert same(loads(dumps(value)), pickle.loads(pickle.dumps(value, 5)))


@pytest.mark.parametrize("bits", [7, 8, 15, 31, 32, 62, 63, 64, 65, 1000, 65536 * 8 - 2])
def test_integers_at_their_edges(bits):
    for n in (2**bits, 2**bits - 1, 2**bits + 1):
        compact_round_trip(n)
        compact_round_trip(-n)


def test_huge_integer_is_pickled():
    assert pickled_round_trip(1 << 65536 * 8) == 1 << 65536 * 8


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 65535, 65536, 1_500_000])
def test_lengths_at_their_edges(length):
    for value in ("x" * length, "é" * length, b"x" * length, bytearray(length), "\0" * length):
        compact_round_trip(value)
    if length <= 65536:
        compact_round_trip([None] * length)
        compact_round_trip((None,) * length)
        compact_round_trip(dict.fromkeys(range(length)))
        compact_round_trip(set(range(length)))


@pytest.mark.parametrize(
    "bits",
    [
        0,
        1 << 63,
        0x7FF0 << 48,
        0xFFF0 << 48,
        0x7FF8 << 48,
        0xFFF8000000000123,
        0x7FF8DEADBEEF0001,
        1,
    ],
)
def test_floats_keep_every_bit(bits):
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    compact_round_trip(value)
    compact_round_trip(complex(value, -0.0))
    compact_round_trip(complex(-0.0, value))


def test_equal_values_of_different_types_stay_apart():
    compact_round_trip(
        [True, 1, 1.0, 1 + 0j, False, 0, -0.0, b"a", bytearray(b"a"), "a", "\U0001f600"]
    )


def test_dict_keeps_its_order():
    assert list(loads(dumps({"b": 1, "a": 2, "c": 3}))) == ["b", "a", "c"]


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "é\udc80", ("x", ["\ud83d"]), {"\udc00": 1}]
)
def test_lone_surrogates_are_pickled(text):
    assert pickled_round_trip(text) == text


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED, Word("a"), Row([1]), Point(1, 2), collections.OrderedDict(a=1), object, len,
        collections.defaultdict(list, a=[1]), collections.Counter("aab"), collections.deque([1]),
        range(3), Ellipsis, NotImplemented, type(None),
    ],
)  # fmt: skip
def test_other_types_are_pickled_whole(value):
    for whole in (value, [value], (1, (value,)), {"a": value}):
        back = pickled_round_trip(whole)
        assert back == whole
        assert type(back) is type(whole)
    assert type(loads(dumps([value]))[0]) is type(value)


@pytest.mark.parametrize("source", [{"a": 1, "b": [2]}, {}, collections.defaultdict(int, a=1)])
@pytest.mark.parametrize("view", ["keys", "values", "items"])
def test_dict_views_become_lists(source, view):
    view = getattr(source, view)()
    data = dumps_compact(view)
    assert same(loads(data, allow_pickle=False), list(view))
    assert same(loads(dumps_compact((view, 1)))[0], list(view))


def test_views_that_pickle_would_refuse():
    assert dumps_compact(collections.OrderedDict(a=1).keys()) is None
    with pytest.raises(TypeError):
        dumps(collections.OrderedDict(a=1).keys())
    # dict_values have a hash, and the list that they become has none.
    assert dumps_compact({{}.values(): 1}) is None
    assert dumps_compact({({}.values(),)}) is None


@pytest.mark.parametrize("kind", ERRORS)
def test_exceptions(kind):
    compact_round_trip(kind())
    compact_round_trip(kind("why", [1, {"a": None}]))
    assert loads(dumps(StopIteration(5))).value == 5


def test_exceptions_that_hold_more_are_pickled():
    noted = ValueError("a")
    noted.__dict__["note"] = 1
    assert same(pickled_round_trip(noted), noted)
    emptied = ValueError("a")
    assert emptied.__dict__ == {}
    compact_round_trip(emptied)
    for error in (OwnError("a"), OSError(2, "no"), UnicodeDecodeError("utf-8", b"a", 0, 1, "x")):
        assert same(pickled_round_trip(error), error)
    try:
        raise KeyError("a") from ValueError()
    except KeyError as error:
        back = compact_round_trip(error)
    assert back.__cause__ is back.__traceback__ is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_notes_survive():
    error = KeyError("a")
    error.add_note("b")
    assert pickled_round_trip(error).__notes__ == ["b"]


def test_registered_reducers_win(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, KeyError, lambda error: (IndexError, error.args))
    assert type(loads(dumps(KeyError("a")))) is IndexError
    monkeypatch.setitem(ForkingPickler._extra_reducers, slice, lambda s: (list, ((s.start,),)))
    assert loads(dumps(slice(1, 2))) == [1]


# Identity


@pytest.mark.parametrize("make", [list, dict, set, bytearray, ValueError, {}.values, list])
@pytest.mark.parametrize(
    "hold", [lambda m: [m, m], lambda m: (m, [m]), lambda m: {1: m, 2: (3, m)}]
)
def test_a_mutable_object_met_twice_is_pickled(make, hold, monkeypatch):
    monkeypatch.setitem(
        ForkingPickler._extra_reducers, type({}.values()), lambda v: (list, (list(v),))
    )
    back = pickled_round_trip(hold(make()))
    first, second = back.values() if isinstance(back, dict) else back
    second = second[-1] if isinstance(second, (tuple, list)) and second else second
    assert first is second


def test_recursion():
    a = [1]
    a.append(a)
    back = pickled_round_trip(a)
    assert back[1] is back
    d = {}
    d["d"] = ([d],)
    back = pickled_round_trip(d)
    assert back["d"][0][0] is back
    t = ([],)
    t[0].append(t)
    back = pickled_round_trip(t)
    assert back[0][0] is back


def test_equal_but_different_mutables_are_compact():
    compact_round_trip([[], [], {}, {}, bytearray(), bytearray()])


def test_at_the_limits():
    compact_round_trip([[] for _ in range(63)])
    assert same(pickled_round_trip([[] for _ in range(64)]), [[] for _ in range(64)])
    value = 0
    for _ in range(32):
        value = (value,)
    compact_round_trip(value)
    assert pickled_round_trip((value,)) == (value,)
    assert pickled_round_trip([0.5] * 200_000) == [0.5] * 200_000


def test_repeated_immutables_do_not_blow_up():
    value = ()
    for _ in range(30):
        value = (value, value)
    assert len(dumps(value)) < 1000
    big = "x" * 1_000_000
    assert len(dumps([big] * 100)) < 1_100_000
    compact_round_trip([big, b"x" * 1_000_000])


def test_failure_to_pickle_is_reported():
    with pytest.raises((pickle.PicklingError, AttributeError)):
        dumps([1, lambda: None])
    with pytest.raises(RuntimeError):
        dumps([Unpicklable()])


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("no")


class FailsToLoad:
    def __reduce__(self):
        return int, ("x",)


def test_failure_to_unpickle_is_not_a_wire_error():
    with pytest.raises(ValueError, match="invalid literal") as caught:
        loads(dumps(FailsToLoad()))
    assert not isinstance(caught.value, WireError)


# Who owns what


def test_no_reference_is_lost_or_kept():
    members = ["a string", 10**30, b"some bytes", 1.25, (1.5, "x")]
    values = [
        members, tuple(members), dict.fromkeys(members, members[0]), set(members),
        slice(*members[:3]), KeyError(*members), [*members, "\ud800"], [members, members],
        [*members, object()],
    ]  # fmt: skip
    before = [sys.getrefcount(member) for member in members]
    constants = [sys.getrefcount(KeyError), sys.getrefcount(())]
    for _ in range(100):
        for value in values:
            dumps_compact(value)
            loads(dumps(value))
    assert [sys.getrefcount(member) for member in members] == before
    after = [sys.getrefcount(KeyError), sys.getrefcount(())]
    assert all(abs(b - a) < 50 for a, b in zip(constants, after, strict=True))


def test_failures_leak_nothing():
    rng = random.Random(7)
    bad = [data[: rng.randrange(len(data))] for data in VALID for _ in range(5)]
    bad += [bytes([SET, 2, INT_1, 1, LIST, 0]), bytes([DICT, 1, LIST, 0, INT_1, 1]), b"\xee"]
    bad += [bytes([LIST, 3, STR, 1, 65, STR, 1, 200, INT_1, 1]), dumps(list(range(300)))[:200]]
    unwritable = [["a", {"b": "\ud800"}], [[] for _ in range(100)], {"a": object()}, [10**200000]]

    def fail():
        for data in bad:
            only_wire_error(data)
        for value in unwritable:
            dumps_compact(value)

    def growth():
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            fail()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        fail()
        gc.collect()
        # Threads that the tests before have left may allocate, too, but hardly each time.
        assert min(growth() for _ in range(15)) < 5_000
    finally:
        tracemalloc.stop()


def test_what_is_decoded_is_collected_as_usual():
    value = loads(dumps_compact([{"a": [1]}, (2, [3]), KeyError([4])]))
    assert all(gc.is_tracked(part) for part in (value, value[1], value[2]))
