"""Bytes that are no values are refused, whatever they claim."""

import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st
from support.values import DICT, INT_1, LIST, SET, STR, TUPLE, VALID, only_wire_error

from fastmgr.wire.codec import WireError, dumps, loads


@settings(max_examples=150)
@given(st.binary(max_size=100))
def test_random_bytes(data):
    only_wire_error(data)


@given(st.lists(st.integers(0, 25) | st.sampled_from([255]), max_size=60).map(bytes))
@settings(max_examples=200)
def test_random_tags(data):
    only_wire_error(data)


@pytest.mark.parametrize("data", VALID)
def test_truncations_and_additions(data):
    for n in range(len(data)):
        with pytest.raises(WireError):
            loads(data[:n], allow_pickle=False)
    with pytest.raises(WireError):
        loads(data + b"\1", allow_pickle=False)


def test_mutations():
    rng = random.Random(5)
    for _ in range(10_000):
        data = bytearray(rng.choice(VALID))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(
                (rng.randrange(256), rng.randrange(20), 255)
            )
        if rng.random() < 0.2:
            data[rng.randrange(len(data)) :] = rng.choice(VALID)
        only_wire_error(data)


HUGE = b"\xff" + b"\xff" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xee",
        bytes([STR, 2]) + b"\xc3\x28",
        bytes([STR, 3]) + b"\xed\xa0\x80",
        *(bytes([tag]) + HUGE for tag in range(1, 30)),
        *(bytes([tag]) + b"\xff" + struct.pack("<Q", 2**63) for tag in range(1, 30)),
        bytes([DICT, 1, LIST, 0, INT_1, 1]),
        bytes([SET, 1, SET, 0]),
        bytes([SET, 1, TUPLE, 1, LIST, 0]),
        bytes([LIST, 1]) * 65 + bytes([LIST, 0]),
        bytes([TUPLE, 1]) * 100_000,
        bytes([dumps(KeyError())[0], 13, TUPLE, 0]),
        bytes([dumps(KeyError())[0], 0, LIST, 0]),
        dumps(object)[:-1],
        dumps(object)[:5],
        dumps(object) + b"\1",
    ],
    ids=lambda data: data[:12].hex(),
)
def test_malformed(data):
    for allow_pickle in (False, True):
        with pytest.raises(WireError):
            loads(data, allow_pickle)


def test_nesting_up_to_the_limit_of_the_reader():
    value = loads(bytes([LIST, 1]) * 63 + bytes([LIST, 0]))
    for _ in range(63):
        (value,) = value
    assert value == []


def test_claims_are_never_added_up():
    # Sixty lists in one another, each of which says that all the rest is its own.
    size = 1_000_000
    data = bytes(bytearray().join(bytes([LIST, 255]) + struct.pack("<Q", size) for _ in range(60)))
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            loads(data + bytes(size))
        assert tracemalloc.get_traced_memory()[1] < 30 * size
    finally:
        tracemalloc.stop()


def test_any_buffer_may_be_read():
    for kind in (bytes, bytearray, memoryview):
        assert loads(kind(dumps([1, "a"]))) == [1, "a"]
    with pytest.raises(TypeError):
        loads("text")
    with pytest.raises(BufferError):
        loads(memoryview(dumps([1, 2]))[::2])
