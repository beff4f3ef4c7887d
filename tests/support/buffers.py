"""Large buffers, what holds them, and a users' class that keeps them."""

from __future__ import annotations

import pickle
import struct
import threading
from pickle import PickleBuffer
from typing import Any

from support import ProbeManager

LARGE = 1 << 16  # from here on buffers are left out


def pattern(seed: int, size: int) -> bytes:
    """Bytes that tell by themselves where they belong."""
    return (struct.pack("<HI", seed % 65536, size) * (size // 6 + 1))[:size]


class Held:
    """Leaves its buffer to pickle, which keeps it out of the pickle if it may."""

    def __init__(self, data: Any, note: object = None) -> None:
        self.data = data
        self.note = note

    def __reduce_ex__(self, protocol: Any) -> Any:
        data = PickleBuffer(self.data) if protocol >= 5 else bytes(self.data)
        return Held, (data, self.note)


def same(a: Any, b: Any) -> bool:
    """Equal, with the types equal all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Held):
        return same(a.data, b.data) and same(a.note, b.note)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return bool(a == b)


def arrived(value: Any) -> Any:
    """What pickle itself makes of a value at the other end."""
    return pickle.loads(pickle.dumps(value, 5))


class Keeper:
    """A class of a user's that gives away what it goes on writing to."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def plain(self) -> bytearray:
        return self.data

    def held(self) -> Held:
        return Held(self.data)

    def fill(self, byte: int) -> None:
        self.data[:] = bytes([byte]) * len(self.data)

    def broken(self, value: Any) -> Any:
        return [value, threading.Lock()]

    def refuse(self, value: Any) -> None:
        raise KeyError(value)

    def echo(self, *args: Any, **kwds: Any) -> Any:
        return args, kwds


class BufferManager(ProbeManager):
    """With what these tests have in the server."""


BufferManager.register("Keeper", Keeper)
