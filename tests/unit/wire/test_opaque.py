"""Pickles among the values: kept unread, and read when somebody looks."""

from __future__ import annotations

import pickle
from pickle import PickleBuffer
from typing import Any

import pytest
from model.compiled import compiled
from support import TESTS, in_thread

from fastmgr.wire.opaque import Opaque, note_transit, transit, use_pickler

probes = compiled("probes", TESTS / "support")

LARGE = 1 << 16


class Held:
    """An object that needs pickle, and leaves its buffer outside."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Held, (PickleBuffer(self.data),)

    def __repr__(self) -> str:
        return f"<held {bytes(self.data)[:3]!r}>"


def kept(value: object) -> Any:
    """Return a value as a server keeps it that does not look at it."""
    writer = probes.WriterProbe(out_of_band=True)
    assert writer.put(value) == 1
    buffers = [bytearray(data) if writable else data for data, writable in writer.left_out]
    return probes.read(writer.data, buffers, carry=True)


@pytest.mark.parametrize("size", [3, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_it_is_read_when_somebody_looks(size: int, kind: type) -> None:
    opaque = kept(Held(kind(b"x" * size)))
    assert type(opaque) is Opaque
    assert repr(opaque) == "<held b'xxx'>"
    held = opaque.load()
    assert (type(held), bytes(held.data)) == (Held, b"x" * size)


def test_readers_do_not_share_what_they_can_change() -> None:
    opaque = kept(Held(bytearray(LARGE)))
    opaque.load().data[:3] = b"new"
    assert bytes(opaque.load().data) == bytes(LARGE)


@pytest.mark.parametrize("size", [3, LARGE])
def test_its_pickle_is_that_of_the_value(size: int) -> None:
    """A peer of the stdlib reads the value, and needs no module of ours for it."""
    data = pickle.dumps(kept(Held(b"x" * size)))
    assert b"fastmgr" not in data
    held = pickle.loads(data)
    assert (type(held), bytes(held.data)) == (Held, b"x" * size)


def test_it_is_written_as_it_came() -> None:
    opaque = kept(Held(bytearray(LARGE)))
    writer = probes.WriterProbe(out_of_band=True)
    assert writer.put_compact([1, opaque]) == 0
    (buffer, writable), = writer.left_out  # fmt: skip
    assert (len(buffer), writable) == (LARGE, True)
    assert bytes(probes.read(writer.data, [buffer])[1].data) == bytes(LARGE)


def test_a_value_that_cannot_be_read_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    opaque = kept(Held(b"x"))
    monkeypatch.delattr(f"{__name__}.Held")
    assert repr(opaque).startswith("<pickled object, ")
    with pytest.raises(AttributeError):
        opaque.load()


def test_proxies_are_noted_while_their_own_thread_encodes_a_reply() -> None:
    note_transit("nobody encodes")
    transit.sink = []
    try:
        note_transit("mine")
        in_thread(note_transit, "another's")
        assert transit.sink == ["mine"]
    finally:
        transit.sink = None


def test_another_pickler_can_be_used() -> None:
    class Mine(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "mine" if isinstance(obj, Held) else None

    use_pickler(Mine)
    try:
        with pytest.raises(pickle.UnpicklingError, match="persistent"):
            kept(Held(b"x")).load()
    finally:
        use_pickler(pickle.Pickler)
    assert kept(Held(b"x")).load().data == b"x"
