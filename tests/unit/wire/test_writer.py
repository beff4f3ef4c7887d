"""Values are written compactly or by pickle, and the writer says which."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
from model.compiled import compiled
from support import TESTS

probes = compiled("probes", TESTS / "support")

LARGE = 1 << 16


class Plain:
    """An object that needs pickle."""


def test_it_says_whether_there_is_a_pickle() -> None:
    writer = probes.WriterProbe()
    assert (writer.put([1, "two"]), writer.pickles) == (0, 0)
    assert (writer.put(Plain()), writer.pickles) == (1, 1)


def test_nothing_stays_of_a_value_that_needs_pickle() -> None:
    writer = probes.WriterProbe(out_of_band=True)
    writer.put(b"x" * LARGE)
    before = writer.data, writer.left_out
    assert writer.put_compact([b"y" * LARGE, bytearray(LARGE), Plain()]) == 1
    assert (writer.data, writer.left_out) == before


def test_nothing_stays_of_a_value_that_cannot_be_pickled() -> None:
    writer = probes.WriterProbe()
    writer.put("before")
    before = writer.data
    with pytest.raises(TypeError):
        writer.put([1, threading.Lock()])
    assert writer.data == before


@pytest.mark.parametrize(
    ("args", "outcome"),
    [
        ((), 0),
        ((1, "two", [3]), 0),
        (("key", Plain()), 1),
        ((Plain(),), 1),
        ((Plain(), Plain()), 2),
        ((Plain(), []), 2),  # they may share an object
        ((1, probes.WriterProbe), 1),
        (("key", threading.Thread), 1),
        (("key", multiprocessing.Process), 2),  # it may refer to a process
    ],
)
def test_arguments(args: tuple[Any, ...], outcome: int) -> None:
    assert probes.WriterProbe().put_args(args) == outcome


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1, [2]] * 100, 0),
        ([1, Plain(), Plain()], 1),
        ([Plain(), multiprocessing.Process], 2),
        ([multiprocessing.Process, Plain()], 2),
    ],
)
def test_values_that_share_nothing_are_pickled_one_by_one(values: list[Any], outcome: int) -> None:
    writer = probes.WriterProbe()
    assert writer.put_apart((iter(values), True, None)) == outcome
    found, *others = probes.read(writer.data)
    assert others == [True, None]
    assert [type(value) for value in found] == [type(value) for value in values]
    assert outcome or found == values


def test_a_list_without_pickle_is_written_whole_or_not_at_all() -> None:
    writer = probes.WriterProbe(out_of_band=True)
    writer.put("before")
    before = writer.data
    for values in ([b"x" * LARGE, bytearray(LARGE), Plain()], ["x" * 50_000] * 1000):
        assert writer.put_each_compact(values) == 1
        assert (writer.data, writer.left_out) == (before, [])
    many = [[i] for i in range(500)]
    assert writer.put_each_compact(many) == 0
    assert probes.read(writer.data[len(before) :]) == many


def test_large_buffers_stay_where_they_are() -> None:
    large, changing = b"x" * LARGE, bytearray(LARGE)
    writer = probes.WriterProbe(out_of_band=True)
    writer.put([large, b"small", changing])
    changing[:] = b"changed".ljust(LARGE)
    (first, first_writable), (second, second_writable) = writer.left_out
    assert first is large
    assert (first_writable, second, second_writable) == (False, bytes(LARGE), True)
    assert len(writer.data) < 100
    assert probes.read(writer.data, [first, bytearray(second)]) == [
        large,
        b"small",
        bytearray(LARGE),
    ]


def test_large_buffers_are_written_where_nobody_sends_them() -> None:
    writer = probes.WriterProbe()
    writer.put([b"x" * LARGE, bytearray(LARGE)])
    assert writer.left_out == []
    assert probes.read(writer.data) == [b"x" * LARGE, bytearray(LARGE)]


def test_a_reset_forgets_everything() -> None:
    writer = probes.WriterProbe(out_of_band=True)
    writer.put([Plain(), b"x" * LARGE])
    writer.put("x" * (1 << 20))
    writer.reset()
    assert (writer.data, writer.left_out, writer.pickles) == (b"", [], 0)
    writer.put("again")
    assert probes.read(writer.data) == "again"


def test_scalars_are_those_that_share_nothing() -> None:
    assert all(map(probes.scalar, (None, True, 1, 1.5, "s", b"b")))
    assert not any(
        map(probes.scalar, ((), (1,), [], {}, bytearray(), 1j, Plain(), type("S", (str,), {})()))
    )
