"""Named objects in files, written by hand and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.kinds.values import Value
from fastmgr.memory.arena import Arena
from fastmgr.server.arenafile import EXTENT, ArenaFile
from fastmgr.server.names import Names
from fastmgr.server.records import HEADER, LINE, MAGIC, RECORD
from support import KEY, ProbeManager


def started(arena: Any) -> Any:
    return ProbeManager(authkey=KEY, arena=arena)


def names_in(path: str) -> Names:
    return Names(ArenaFile(path, Arena()))


def closed(names: Names) -> None:
    assert names.file is not None
    names.file.close()


def write(
    path: str,
    *records: tuple[int, bytes, bytes, bytes],
    end: int | None = None,
    magic: bytes = MAGIC,
) -> None:
    """A file with these records."""
    body = bytearray()
    for kind, *parts in records:
        body += RECORD.pack(kind, *map(len, parts)) + bytes(LINE - RECORD.size)
        for part in parts:
            body += part + bytes(-len(part) % LINE)
    head = HEADER.pack(magic, LINE + len(body) if end is None else end)
    data = head + bytes(LINE - len(head)) + body
    Path(path).write_bytes(data + bytes(-len(data) % EXTENT))


def look_at(names: Names) -> None:
    """Use all that a file is said to hold."""
    for obj in list(names.objects.values()):
        if isinstance(obj, Counters):
            keys = obj.keys()
            assert len(obj.snapshot()) == len(keys)
            for key in keys[:3]:
                obj[key] = 5
        elif isinstance(obj, Array):
            assert len(obj.tolist()) == len(obj)
            if len(obj):
                obj[-1] = 1
        elif isinstance(obj, Counter):
            obj.set(5)
        else:
            assert isinstance(obj, Value)
            obj.get()
            obj.set(5)
    names.get("a new one", Counter, ()).incr()


def survives(path: str) -> None:
    """It is refused, or can be used."""
    names = None
    try:
        names = names_in(path)
    except ValueError as error:
        assert path in str(error)
    else:
        look_at(names)
        closed(names)
