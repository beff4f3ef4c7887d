"""Numbers as they lie in a cell: the server works on them there, as a client does."""

from __future__ import annotations

import array
import math
import struct
from typing import Any

import pytest

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.kinds.values import Value
from fastmgr.memory.arena import Arena, settle

INTEGERS = "bBhHiIlLqQ"


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena()


def limits(code: str) -> tuple[int, int]:
    bits = 8 * array.array(code).itemsize
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if code.islower() else (0, 2**bits - 1)


@pytest.mark.parametrize("code", INTEGERS)
def test_an_item_takes_each_number_of_its_type_and_no_other(arena: Arena, code: str) -> None:
    low, high = limits(code)
    items = Array(code, [low, high, 1])
    assert settle(items, arena)
    for index, amount in [(0, -1), (1, 1), (0, -(2**70)), (1, 2**70)]:
        with pytest.raises(OverflowError, match=repr(code)):
            items.incr(index, amount)
    assert items[:].tolist() == [low, high, 1]
    assert (items.incr(0, high - low), items.incr(1, low - high)) == (high, low)
    assert items[:].tolist() == [high, low, 1]


@pytest.mark.parametrize("code", "fd")
def test_only_integers_add_in_one_step(arena: Arena, code: str) -> None:
    items = Array(code, [1.5])
    assert settle(items, arena)
    with pytest.raises(TypeError, match=repr(code)):
        items.incr(0)


SINGLES = [None, True, False]
FLOATS = [0.0, -0.0, 1e308, 5e-324, math.inf, -math.inf]
INTS = [0, 1, -1, 2**47 - 1, -(2**47)]


@pytest.mark.parametrize("held", [*SINGLES, *FLOATS, *INTS])
def test_a_word_says_which_value_it_has(held: Any) -> None:
    value = Value("", held)
    value.keeper = "a file's"  # a file keeps the word alone
    value.set(held)
    assert (type(value.get()), repr(value.get())) == (type(held), repr(held))


@pytest.mark.parametrize("payload", [0x7FF8 << 48, 0xFFF8 << 48, 0xFFFA << 48 | 7, 2**64 - 1])
def test_no_nan_is_taken_for_another_value(payload: int) -> None:
    nan = struct.unpack("d", struct.pack("Q", payload))[0]
    value = Value("d", nan)
    assert math.isnan(value.get())
    value.keeper = "a file's"
    value.set(nan)
    assert math.isnan(value.get())


@pytest.mark.parametrize("held", [2**47, -(2**47) - 1, 2**63, "text", 1j])
def test_other_values_are_the_servers(held: Any) -> None:
    value = Value("", held)
    assert value._other is held
    assert value.exchange(1) is held
    assert value._other is None


@pytest.mark.parametrize("bits", [63, 256, 20_000])
def test_a_counter_says_which_number_does_not_fit(bits: int) -> None:
    counter, number = Counter(1), 2**bits
    shown = str(number) if bits < 256 else f"an int of {bits + 1} bits"
    for call in (counter.set, counter.exchange, counter.incr):
        with pytest.raises(OverflowError, match=shown):
            call(number)
    assert counter.get() == 1
    assert not counter.compare_exchange(number, 2)


def test_a_counter_may_add_what_does_not_fit_where_the_sum_does() -> None:
    counter = Counter(-1)
    assert counter.incr(2**63) == 2**63 - 1
    assert counter.decr(2**64 - 1) == -(2**63)


def test_an_index_that_is_too_large_is_an_index_error() -> None:
    counters = Counters(2)
    for key in (2, -3, 2**64, -(2**64)):
        with pytest.raises(IndexError):
            counters[key]
    assert counters[-1] == 0
