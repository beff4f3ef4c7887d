"""RESP3, without any server: requests to bytes, bytes to replies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st
from support.resp import SAMPLES, Value, aggregate, blob, error, number, with_attribute

from fastmgr.engines.valkey.errors import ProtocolError, ReplyError
from fastmgr.engines.valkey.resp import INCOMPLETE, Encoder, Parser, encoded


def parsed(pieces: list[bytes]) -> tuple[list[Any], list[Any]]:
    """The replies and the pushes in bytes that arrive in pieces."""
    parser, replies = Parser(), []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.gets()) is not INCOMPLETE:
            replies.append(reply)
    return replies, parser.pushes


# -- requests -------------------------------------------------------------------


def test_words_of_each_type_are_encoded() -> None:
    words = [b"GET", "ké", 0, -7, 10**20, bytearray(b"a"), memoryview(b"bc")]
    assert encoded(words) == (
        b"*7\r\n$3\r\nGET\r\n$3\r\nk\xc3\xa9\r\n$1\r\n0\r\n$2\r\n-7\r\n"
        b"$21\r\n100000000000000000000\r\n$1\r\na\r\n$2\r\nbc\r\n"
    )


def test_requests_follow_each_other_and_a_refused_one_leaves_nothing() -> None:
    encoder = Encoder()
    encoder.add([b"A"])
    with pytest.raises(TypeError, match="not float"):
        encoder.add([b"B", 1.5])
    encoder.add([b"C" * 100_000])
    assert bytes(encoder) == b"*1\r\n$1\r\nA\r\n*1\r\n$100000\r\n" + b"C" * 100_000 + b"\r\n"
    encoder.clear()
    assert bytes(encoder) == b""


# -- replies --------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_a_value_may_be_cut_anywhere(name: str) -> None:
    spelled, expected = SAMPLES[name]
    whole = spelled + b"+end\r\n"
    for cut in range(1, len(spelled)):
        parser = Parser()
        parser.feed(whole[:cut])
        assert parser.gets() is INCOMPLETE, cut
        parser.feed(whole[cut:])
        assert parser.gets() == expected, cut
        assert parser.gets() == b"end"
        assert parser.gets() is INCOMPLETE
    assert parsed([whole[i : i + 1] for i in range(len(whole))]) == ([expected, b"end"], [])


def test_types_are_kept() -> None:
    replies, _ = parsed([b"".join(SAMPLES[name].spelled for name in ("true", "number", "double"))])
    assert [type(reply) for reply in replies] == [bool, int, float]
    [[nan]] = parsed([b",nan\r\n"])[:1]
    assert math.isnan(nan)


@pytest.mark.parametrize("name", ["nested", "error", "attribute", "number"])
def test_pushes_are_kept_aside(name: str) -> None:
    spelled, expected = SAMPLES[name]
    first = aggregate(">", [blob(b"message"), blob(b"channel"), number(1)])
    second = aggregate(">", [blob(b"x"), aggregate("%", [number(1), number(2)])])
    whole = first.spelled + spelled + second.spelled + second.spelled + spelled
    for cut in range(1, len(whole)):
        replies, pushes = parsed([whole[:cut], whole[cut:]])
        assert replies == [expected, expected]
        assert pushes == [first.parsed, second.parsed, second.parsed]


def test_an_error_has_a_code() -> None:
    [[reply]] = parsed([error("FM KEY no such key").spelled])[:1]
    assert (type(reply), reply.code, reply.text) == (ReplyError, "FM", "KEY no such key")
    assert repr(reply) == "<ReplyError FM KEY no such key>"


numbers = st.integers(-(2**63), 2**63 - 1).map(number)
blobs = st.binary(max_size=60).map(blob)
scalars = st.one_of(
    numbers,
    blobs,
    st.sampled_from([SAMPLES[n] for n in ("null", "true", "infinity", "error", "big number")]),
)
values: st.SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(aggregate, st.sampled_from("*~"), st.lists(inner, max_size=4)),
        st.builds(
            lambda pairs: aggregate("%", [one for pair in pairs for one in pair]),
            st.lists(st.tuples(blobs, inner), max_size=3),
        ),
        st.builds(
            lambda pairs, value: with_attribute([one for pair in pairs for one in pair], value),
            st.lists(st.tuples(blobs, inner), max_size=2),
            inner,
        ),
    ),
    max_leaves=12,
)


@given(st.lists(values, max_size=5), st.lists(st.integers(1, 80), min_size=1))
def test_values_come_out_as_they_went_in(wanted: list[Value], sizes: list[int]) -> None:
    whole = b"".join(value.spelled for value in wanted)
    pieces, turn = [], 0
    while whole:
        size = sizes[turn % len(sizes)]
        pieces.append(whole[:size])
        whole, turn = whole[size:], turn + 1
    assert parsed(pieces) == ([value.parsed for value in wanted], [])


@given(st.lists(st.binary(max_size=50) | st.integers() | st.text(max_size=20), max_size=6))
def test_a_request_is_an_array_of_its_words(words: list[Any]) -> None:
    [[reply]] = parsed([encoded(words)])[:1]
    spelled = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    assert reply == spelled


# -- what is no RESP3 -------------------------------------------------------------

WRONG = {
    "no mark": b"hello\r\n",
    "no carriage return": b":1\n",
    "empty line": b"\r\n",
    "no digits": b":\r\n",
    "sign alone": b":-\r\n",
    "letters in a number": b":12x\r\n",
    "number of 65 bits": b":9223372036854775808\r\n",
    "too small a number": b":-9223372036854775809\r\n",
    "many digits": b":99999999999999999999\r\n",
    "negative length": b"$-2\r\n",
    "length with a letter": b"$1a\r\nx\r\n",
    "absurd length": b"$9999999999999999999\r\n",
    "text longer than it says": b"$2\r\nabc\r\n",
    "half a boolean": b"#x\r\n",
    "null with more": b"_x\r\n",
    "double of letters": b",abc\r\n",
    "big number with a point": b"(1.5\r\n",
    "verbatim without a format": b"=3\r\nabc\r\n",
    "push within an array": b"*1\r\n>1\r\n:1\r\n",
    "streamed string": b"$?\r\n",
    "nested too deep": b"*1\r\n" * 65,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_resp3_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        parsed([WRONG[name]])


def test_a_line_without_end_is_refused() -> None:
    parser = Parser()
    with pytest.raises(ProtocolError, match="has no end"):
        for _ in range(40):
            parser.feed(b"-" + b"x" * 65536)
            assert parser.gets() is INCOMPLETE


def test_nothing_is_allocated_for_what_is_only_announced() -> None:
    """An array of a thousand million elements, and a text of as many bytes."""
    parser = Parser()
    parser.feed(b"*1000000000\r\n$4\r\nabcd\r\n$1000000000\r\nxyz")
    assert parser.gets() is INCOMPLETE
    assert parser.wanted == 1_000_000_000 + 2 - 3


def test_a_long_reply_takes_time_in_proportion_to_its_length() -> None:
    """Each element is parsed once, however many pieces the reply comes in."""
    whole = aggregate("*", [blob(b"%d" % i) for i in range(30_000)])
    replies, _ = parsed([whole.spelled[i : i + 7] for i in range(0, len(whole.spelled), 7)])
    assert replies == [whole.parsed]
