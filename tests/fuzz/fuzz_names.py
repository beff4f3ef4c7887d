"""A file of named objects, whatever is in it, is refused and left alone, or is sound and stays so.

The first bytes of an input choose how long the file is and what is done with it; the rest is the
file line by line, each a byte that says how long it is and what it has before zeros fill it
(`BARE`: none do).
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import fuzz, instrumented

with instrumented():
    from fastmgr.kinds.arrays import Array
    from fastmgr.kinds.counters import Counter, Counters
    from fastmgr.kinds.values import Value
    from fastmgr.memory.arena import Arena
    from fastmgr.server import arenafile as module
    from fastmgr.server.arenafile import ArenaFile
    from fastmgr.server.names import Names
    from fastmgr.server.records import HEADER, LINE, MAGIC, PREDECESSOR, RECORD

# Small files grow, and are filled to the end, more often; a file is mapped in pages.
module.EXTENT = EXTENT = os.sysconf("SC_PAGESIZE")
PRELUDE = 3
BARE = 128
GROW, FORGET, FORGET_NEW, TWICE = 1, 2, 4, 8
FILLING, COUNTER, COUNTERS, VALUE, ARRAY, MORE_COUNTERS = range(6)
PATH = str(Path(tempfile.mkdtemp()) / "arena")


class State(NamedTuple):
    """What an object is, as its record or itself has it."""

    kind: type
    about: Any
    data: Any


def word(data: bytes) -> object:
    """What the eight bytes of a value mean."""
    (bits,) = struct.unpack("<Q", data)
    if bits >> 48 < 0xFFFA:
        return data  # a float; not every one equals itself
    if bits >> 48 == 0xFFFA:
        return (bits & (1 << 48) - 1 ^ 1 << 47) - (1 << 47)
    return {0xFFFB << 48 | 1: False, 0xFFFB << 48 | 2: True}.get(bits)


def written(data: bytes) -> dict[str, State]:
    """What is in a file that was not refused."""
    states: dict[str, State] = {}
    _, end = HEADER.unpack_from(data)
    assert end <= len(data)
    at = LINE
    while at < end:
        kind, *sizes = RECORD.unpack_from(data, at)
        at += LINE
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += -(-size // LINE) * LINE
        if kind == FILLING:
            continue
        name, about = parts[0].decode(), json.loads(parts[1])
        if kind in (COUNTERS, MORE_COUNTERS):
            assert type(about) is int or all(type(key) is str for key in about), about
            about = tuple(about) if isinstance(about, list) else about
        if kind == MORE_COUNTERS:
            _, before, values = states[name]
            states[name] = State(Counters, before + about, values + parts[2])
            continue
        assert name not in states
        states[name] = {
            COUNTER: State(Counter, None, parts[2]),
            COUNTERS: State(Counters, about, parts[2]),
            VALUE: State(Value, about, word(parts[2]) if kind == VALUE else None),
            ARRAY: State(Array, about, parts[2]),
        }[kind]
    assert at == end
    return states


def found(names: Names) -> dict[str, State]:
    return {name: state_of(obj) for name, obj in names.objects.items()}


def state_of(obj: Any) -> State:
    if type(obj) is Counter:
        return State(Counter, None, struct.pack("<q", obj.get()))
    if type(obj) is Counters:
        about = len(obj) if obj.names is None else obj.names
        return State(Counters, about, struct.pack(f"<{len(obj)}q", *obj.snapshot()))
    if type(obj) is Array:
        return State(Array, obj.typecode, obj.tobytes())
    value = obj.get()
    return State(Value, obj._typecode, struct.pack("<d", value) if type(value) is float else value)


def fresh(taken: Any) -> str:
    name = "new"
    while name in taken:
        name += "+"
    return name


def change(names: Names) -> None:
    """Write to each object, to the last of what it has."""
    for number, obj in enumerate(names.objects.values()):
        if type(obj) is Counter:
            obj.exchange(number)
            obj.incr(-3)
        elif type(obj) is Counters:
            for key in obj.keys()[-2:]:
                obj[key] = number
                obj.incr(key, 7)
        elif type(obj) is Value:
            obj.set(number - 5)
            obj.incr()
        elif len(obj):
            obj[-1] = number & 127


def add(names: Names, how: int, amount: int) -> None:
    """Keep something new, have rows of counters grow, and forget something."""
    wanted = [(Counter, (how,)), (Value, ("d", how / 3)), (Array, ("q", range(amount * 3)))]
    for kind, arguments in wanted:
        name = fresh(names.objects)
        obj = names.get(name, kind, arguments)
        assert state_of(obj) == state_of(kind(*arguments))
        assert names.get(name, kind, arguments) is obj
    if how & GROW:
        for name, row in list(names.objects.items()):
            if type(row) is Counters:
                more = [*row.names, fresh(row)] if row.names is not None else len(row) + amount
                assert names.get(name, Counters, (more,)) is row
                assert len(row) == (more if isinstance(more, int) else len(more))
    if how & FORGET:
        assert names.forget(list(names.objects)[amount % len(names.objects)])
    if how & FORGET_NEW:
        assert names.forget(list(names.objects)[-1])


def session(arena: Arena, how: int, amount: int, before: dict[str, State]) -> dict[str, State]:
    """Open the file and use it; what it then holds."""
    names = Names(ArenaFile(PATH, arena))
    assert names.file is not None
    try:
        assert found(names) == before
        change(names)
        assert {name: state[:2] for name, state in found(names).items()} == {
            name: state[:2] for name, state in before.items()
        }
        add(names, how, amount)
        after = found(names)
    finally:
        names.file.close()
    assert written(Path(PATH).read_bytes()) == after
    return after


def refused(arena: Arena) -> bool:
    try:
        ArenaFile(PATH, arena).close()
    except ValueError as error:
        assert PATH in str(error)
        return True
    return False


def one_input(data: bytes) -> None:
    if len(data) < PRELUDE:
        return
    how, amount, room = data[:PRELUDE]
    file = unfolded(data[PRELUDE:])
    file += bytes(max(0, room * LINE - len(file)))
    Path(PATH).write_bytes(file)
    descriptors = len(os.listdir("/proc/self/fd"))
    arena = Arena()
    if refused(arena):
        assert Path(PATH).read_bytes()[: len(file)] == file
    else:
        opened = Path(PATH).read_bytes()
        assert opened.startswith(MAGIC)
        if file.startswith((MAGIC, PREDECESSOR)):
            assert opened[len(MAGIC) : len(file)] == file[len(MAGIC) :]
            assert HEADER.unpack_from(file)[1] <= len(file), "some of it is missing"
        else:
            assert not (file[: len(MAGIC)] + file[HEADER.size :]).strip(b"\0"), "overwritten"
        states = written(opened)
        for _ in range(2 if how & TWICE else 1):
            states = session(arena, how, amount, states)
        assert not refused(arena)
    assert not arena.segments, "still mapped"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not module._in_use


def unfolded(data: bytes) -> bytes:
    file, at = bytearray(), 0
    while at < len(data):
        size = data[at] & BARE - 1
        file += data[at + 1 : at + 1 + size]
        if not data[at] & BARE:
            file += bytes(-size % LINE if size else LINE)
        at += 1 + size
    return bytes(file)


def folded(file: bytes) -> bytes:
    lines = [file[at : at + LINE].rstrip(b"\0") for at in range(0, len(file), LINE)]
    return b"".join(bytes([len(line)]) + line for line in lines)


def record(kind: int, *parts: bytes) -> bytes:
    lines = [RECORD.pack(kind, *map(len, parts)), *parts]
    return b"".join(line.ljust(LINE, b"\0") for line in lines)


def seeds() -> Iterator[bytes]:
    def taken(file: ArenaFile) -> bytes:
        return Path(PATH).read_bytes()[: file.end]

    Path(PATH).unlink(missing_ok=True)
    names = Names(ArenaFile(PATH, Arena()))
    assert names.file is not None
    files = [b"", taken(names.file)]
    names.get("c", Counter, (-5,))
    names.get("row", Counters, (["a", "b"],))
    names.get("v", Value, ("d", 2.5))
    names.get("i", Value, ("i", -3))
    names.get("n", Value, ("i", None))
    files.append(taken(names.file))
    files.append(PREDECESSOR + files[-1][len(PREDECESSOR) :])
    names.get("row", Counters, (["a", "b", "c"],))
    names.get("indexed", Counters, (3,))
    names.get("indexed", Counters, (13,))
    names.forget("c")
    names.get("row", Counters, (["a", "b", "c", "d"],))
    for typecode in "bHiQfd":
        names.get(typecode * 2, Array, (typecode, range(9)))
    names.forget("row")
    files.append(taken(names.file))
    names.get("empty", Array, ("i", ()))
    names.get("none", Counters, ([],))
    names.get("\xe9\u20ac", Counters, ({"\xe9": 1, "\0": 2},))
    names.get("much", Array, ("q", range(500)))  # the file grows
    files.append(taken(names.file))
    names.file.close()
    for about in (b"null", b"[]", b'["a"]', b'"a"', b"true", b"1"):
        grown = [record(kind, b"n", about, bytes(8)) for kind in (COUNTERS, MORE_COUNTERS)]
        named = record(COUNTERS, b"n", b'["b"]', bytes(8))
        for records in (grown, grown[:1], grown[:1] * 2, grown[1:], [named, grown[1]]):
            body = b"".join(records)
            files.append(HEADER.pack(MAGIC, LINE + len(body)).ljust(LINE, b"\0") + body)
    for number, file in enumerate(files):
        yield bytes([GROW, 9, 0]) + folded(file[:-LINE])
        for room in (0, 16, 64, 65, 200):
            yield bytes([number * 7 + room & 15, room + number, room]) + folded(file)


def words() -> Iterator[bytes]:
    for number in (*range(6), 7, 8, 9, 16, 24, 63, 64, 65, 4096, 2**61, 2**63, 2**64 - 64):
        yield struct.pack("<Q", number)
    for mark in (0xFFFA, 0xFFFB, 0xFFFC, 0xFFF8):
        yield struct.pack("<Q", mark << 48)
    for kind in range(1, 6):
        yield folded(RECORD.pack(kind, 1, 4, 8))
    texts = ["null", "true", "3", "0", "[]", '["a"]', '"i"', '"u"', "{}", '{"a":1}', "1e9", '"\\u']
    yield from (text.encode() for text in texts)
    yield from (b"fmarena1", MAGIC, b"fmarena3", b"fmcutoff", bytes(8))


if __name__ == "__main__":
    fuzz(one_input, seeds(), words())
