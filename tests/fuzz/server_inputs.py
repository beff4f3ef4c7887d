"""The inputs of ``fuzz_server``: what they mean, and those it starts from.

An input is a byte of modes and then records of an operation (its highest bit chooses between two
connections), flags, a method, a handle and a size, each one byte, and the body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from common import instrumented

with instrumented():
    from fastmgr.link.cutter import Op
    from fastmgr.managers import SyncManager
    from fastmgr.wire.codec import dumps
    from fastmgr.wire.methods import METHODS

QUEUE, LOCK, FIRST = 0, 1, 2  # two of the good client's, then what an input creates
HEADER = struct.Struct("<QQIHBB")
PICKLED, ANONYMOUS, FOLLOWS, CARRIED, SEGMENTS, ONEWAY, VERSION = 1, 2, 4, 8, 16, 32, 128
HANG_UP, ABORT = 1, 2
UNKNOWN, RAW = 0, 99  # the latter: bytes that are no frame
CALL, CREATE, CONTROL = Op.OP_CALL, Op.OP_CREATE, Op.OP_CONTROL
INCREF, RELEASE, GOODBYE = Op.OP_INCREF, Op.OP_RELEASE, Op.OP_GOODBYE
LOCATE, ATTACH = Op.OP_LOCATE, Op.OP_ATTACH
OPS = [UNKNOWN, CALL, CREATE, CONTROL, INCREF, RELEASE, GOODBYE, CALL, CREATE, CALL, RAW, 16]
OPS += [LOCATE, ATTACH]


class Record(NamedTuple):
    """One request."""

    op: int
    flags: int
    method: int
    handle: int
    body: bytes
    second: bool

    def frame(self, call: int, base: int) -> bytes:
        """The request's bytes, with handles counted from `base`."""
        body, handle = self.body, self.handle
        if self.op == GOODBYE:
            call = self.method  # the first whose reply was not taken
        if self.op == RAW:
            return body
        if self.op in (CALL, LOCATE):  # an ATTACH has the number of a segment
            handle += base
        elif self.op == INCREF:
            body = b"".join(struct.pack("<Q", base + byte) for byte in body)
        elif self.op == RELEASE:
            pairs = zip(body[::2], body[1::2], strict=False)
            body = b"".join(struct.pack("<Qq", base + byte, count - 8) for byte, count in pairs)
        return HEADER.pack(len(body), handle, call, self.method, self.op, self.flags) + body


def parse(data: bytes) -> list[Record]:
    records = []
    while len(data) >= 5:
        op, flags, method, handle, size = data[:5]
        body, data = data[5 : 5 + size], data[5 + size :]
        records.append(Record(OPS[(op & 127) % len(OPS)], flags, method, handle, body, op > 127))
    return records


# Type, arguments, and calls with theirs.
TALKS: dict[str, tuple[tuple[Any, ...], list[tuple[Any, ...]]]] = {
    "list": (([3, 1],), [("append", 1), ("__getitem__", 0), ("sort",), ("pop",), ("reverse",)]),
    "dict": (({"k": 1},), [("__getitem__", "k"), ("incr", "k"), ("__iter__",), ("items",)]),
    "set": (([1],), [("add", 2), ("__contains__", 2), ("pop",), ("update", {4, 5})]),
    "Value": (("i", 1), [("get",), ("set", "x"), ("incr",), ("compare_exchange", 2, 3)]),
    "Array": (("i", [1, 2]), [("__getitem__", 0), ("__setitem__", 1, 9), ("incr", 1, 2)]),
    "Counter": ((5,), [("incr", 1 << 62), ("decr",), ("exchange", 7), ("__str__",)]),
    "Counters": ((["a"],), [("incr", "a"), ("snapshot",), ("__getitem__", "b"), ("as_dict",)]),
    "Namespace": ((), [("__setattr__", "x", 1), ("__getattribute__", "x"), ("incr", "x")]),
    "Lock": ((), [("acquire",), ("acquire", False), ("acquire", True, 9.0), ("release",)]),
    "RLock": ((), [("acquire",), ("acquire",), ("release",), ("locked",)]),
    "Semaphore": ((1,), [("acquire",), ("release", 2), ("acquire", True, 0.001), ("acquire",)]),
    "BoundedSemaphore": ((2,), [("acquire",), ("release",), ("release",)]),
    "Condition": ((), [("acquire",), ("notify", 1), ("wait", 0.001), ("release",), ("wait",)]),
    "Event": ((), [("is_set",), ("wait", 0.001), ("set",), ("wait",), ("clear",)]),
    "Barrier": ((2,), [("wait", 0.001), ("reset",), ("wait",), ("abort",)]),
    "Queue": ((1,), [("put", 1), ("put", 2, False), ("get",), ("task_done",), ("join",)]),
    "JoinableQueue": ((), [("put", [1]), ("qsize",), ("get", True, 0.001), ("join",), ("get",)]),
    "Box": ((1,), [("get",), ("make", 2), ("fail", 3), ("__str__",), ("#GETVALUE",)]),
}
CONTROLS: list[tuple[Any, ...]] = [
    *(("dummy",), ("debug_info",), ("number_of_objects",), ("create", "list"), ("no such",)),
    *(("accept_connection", "x"), ("get_methods", 1), ("incref", "1"), ("decref", "1")),
]


def request(
    op: int, name: str, args: Any = (), flags: int = 0, second: int = 0, handle: int = FIRST
) -> bytes:
    """A record; calls name their method by its number."""
    number = METHODS.index(name) + 1 if op == CALL and name in METHODS else 0
    body = (b"" if number else dumps(name)) + dumps(tuple(args)) + dumps({})
    return bytes([OPS.index(op) + 128 * second, flags, number, handle, len(body)]) + body


def other(
    op: int, body: bytes = b"", flags: int = 0, handle: int = FIRST, method: int = 0
) -> bytes:
    return bytes([OPS.index(op), flags, method, handle, len(body)]) + body


def seeds() -> Iterator[bytes]:
    end = other(RELEASE, bytes([FIRST, 9])) + other(GOODBYE)
    for typeid, (args, talk) in TALKS.items():
        create = request(CREATE, typeid, args)
        calls = b"".join(request(CALL, name, rest) for name, *rest in talk)
        silent = b"".join(request(CALL, name, rest, ONEWAY) for name, *rest in talk)
        others = b"".join(request(CALL, name, rest, FOLLOWS, 1) for name, *rest in talk)
        yield b"\0" + create + calls + end
        yield b"\0" + create + calls + others + calls
        yield b"\0" + create + calls + other(GOODBYE, method=2)
        yield b"\0" + create + calls + other(GOODBYE, method=1)
        yield bytes([HANG_UP]) + request(CREATE, typeid, args, ANONYMOUS) + calls
        yield bytes([ABORT]) + create + other(INCREF, bytes([0, 1, FIRST, 9])) + others
        yield b"\0" + create + request(CREATE, "Box") + others + silent + calls + end
        mapping = other(LOCATE) + b"".join(other(ATTACH, handle=number) for number in range(3))
        yield b"\0" + create + mapping + calls + mapping + others + end
        yield bytes([HANG_UP]) + create + silent + mapping + calls
        reads, asked, lost = (
            b"".join(request(CALL, name, rest, flags, flags & 1) for name, *rest in talk)
            for flags in (VERSION, VERSION | PICKLED, VERSION | ONEWAY)
        )
        yield b"\0" + create + other(LOCATE) + reads + others + reads + lost + create + reads + end
        yield bytes([HANG_UP]) + create + other(LOCATE) + reads + asked + other(LOCATE) + reads
        for flags in (PICKLED, PICKLED | CARRIED, CARRIED):
            kept = [request(CALL, name, ("\ud800",), flags) for name in ("append", "set", "put")]
            yield b"\0" + create + b"".join(kept) + calls + end
    for name, *rest in CONTROLS:
        yield b"\0" + request(CONTROL, name, rest) + end
    for mode in (b"\0", bytes([HANG_UP]), bytes([ABORT])):
        locked = request(CALL, "acquire", handle=LOCK)
        yield mode + locked + request(CALL, "get", handle=QUEUE)
        yield mode + locked + request(CALL, "acquire", second=1, handle=LOCK)
        yield mode + locked + end
    for size in (0, 1 << 62):
        yield b"\0" + other(RAW, HEADER.pack(size, 0, 0, 0, GOODBYE, 0))
    table = struct.pack("<QQQ", 1, 4, 3)
    yield b"\0" + request(CREATE, "list") + other(CALL, table + b"name" + b"abc", SEGMENTS) + end


def words() -> Iterator[bytes]:
    for typeid, (_, exposed, *_) in SyncManager._registry.items():
        yield dumps(typeid)
        yield from map(dumps, exposed or ())
    yield from (dumps(name) for name, *_ in CONTROLS)
    yield from map(dumps, ((), {}, (None,), (0,), (-1,), (1 << 40,), (0.001,), (False,), ("x",)))
