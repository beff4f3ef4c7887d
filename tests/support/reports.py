"""Reports that no server has made: one of each kind, and how they go on."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastmgr.monitor import ClientReport, LockReport, ObjectReport, Party, Report, ServerReport


def party(name: str, number: int, **more: Any) -> Party:
    """The main thread of a process."""
    return Party(
        **{"pid": 4000 + number, "process": name, "thread": "MainThread", "since": 2.5}
        | {"number": number}
        | more
    )


ONE, OTHER, THIRD = (party(name, number) for number, name in enumerate(("one", "other", "third")))
LOCKS = (
    LockReport("00a1", "Lock", None, (ONE,), (OTHER, THIRD)),
    LockReport("00a2", "RLock", "table", (OTHER,), (ONE,)),
    LockReport("00a3", "Queue", "jobs", (), (party("idle", 9),)),
)
OBJECTS = (
    ObjectReport("00b1", "dict", None, 2, 1000, 10, 0.5, 4096, 8192, size=17),
    ObjectReport("00b2", "Counter", "hits", 3, 40, in_memory=True),
    ObjectReport("00a1", "Lock", None, 2, 3, waiters=2, waited=5.0),
)
CLIENTS = (
    ClientReport(4000, "here", "one", "", 2, ("MainThread", "Thread-1"), 900, references=4),
    ClientReport(4001, "here", "other", "10.0.0.7", 1, ("MainThread",), 143, references=None),
)


#: A name that begins a line, commands the terminal, and cannot be encoded.
HOSTILE = "\x1b[31mred\n\u202e\udcff"


def hostile() -> Report:
    """What a server says where every name is such a one."""
    one, other = (
        party(HOSTILE, number, thread=HOSTILE, host=f"{HOSTILE} {number}") for number in range(2)
    )
    named = {"id": HOSTILE, "typeid": HOSTILE, "name": HOSTILE}
    return report(
        version=HOSTILE,
        objects=(ObjectReport(**named),),
        clients=(ClientReport(1, HOSTILE, HOSTILE, HOSTILE, 1, (HOSTILE,)),),
        locks=(
            LockReport("1", HOSTILE, HOSTILE, (one,), (other,)),
            LockReport(HOSTILE, HOSTILE, None, (other,), (one,)),
        ),
    )


def report(seconds: float = 10.0, calls: int = 0, **more: Any) -> Report:
    """What a server says so many seconds after its start, and after so many calls more."""
    objects = (dataclasses.replace(OBJECTS[0], calls=1000 + calls), *OBJECTS[1:])
    server = ServerReport(
        objects=3, clients=2, connections=3, accepted=7, calls=1043 + calls, memory=2**25
    )
    return Report(
        **{"version": "9.9", "pid": 77, "started": 1e9, "uptime": seconds, "server": server}
        | {"objects": objects, "clients": CLIENTS, "locks": LOCKS}
        | more
    )
