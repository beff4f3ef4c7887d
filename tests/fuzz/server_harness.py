"""The server of ``fuzz_server``, a client that it serves all along, and what is wrong with it."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
import struct
import sys
import threading
import time
from multiprocessing import util
from typing import ClassVar

from common import instrumented
from server_inputs import CALL, CREATE, HEADER, RELEASE

with instrumented():
    from fastmgr.kinds.queues import Queue

    from fastmgr.kinds.primitives import Barrier
    from fastmgr.link.cutter import Op
    from fastmgr.link.introduction import Introducer
    from fastmgr.link.sockets import connect
    from fastmgr.managers import SyncManager
    from fastmgr.server.server import Server
    from fastmgr.wire.codec import dumps, loads

KEY = b"key"
PATIENCE = 10.0
MOST_THREADS = 64
VERSIONS = 0x7FFFFFFE  # the number of the segment in which the versions of objects are


class Box:
    """A user's object: the loop may not run its methods, and one of them makes more of its kind."""

    alive: ClassVar[collections.deque[None]] = (
        collections.deque()
    )  # whose length no thread can garble

    def __new__(cls, *contents: object, **unexpected: object) -> Box:
        Box.alive.append(None)  # what is destroyed need not have been initialised
        return super().__new__(cls)

    def __init__(self, *contents: object) -> None:
        self.contents = contents

    def __del__(self) -> None:
        Box.alive.pop()

    def get(self) -> object:
        return self.contents

    def make(self, *contents: object) -> Box:
        return Box(*contents)

    def fail(self, *args: object) -> None:
        raise RuntimeError(*args)


class Manager(SyncManager):
    """The usual types, but nothing that starts processes, keeps a thread or multiplies."""


EXPOSED = ("get", "make", "fail")
Manager.register("Box", Box, None, EXPOSED, {"make": "Box"}, readers=["get"])
Manager.register("Barrier", lambda parties: Barrier(parties), Manager._registry["Barrier"][3])
Manager.register("list", list, exposed=set(Manager._registry["list"][1]) - {"__mul__", "__imul__"})
del Manager._registry["Pool"]
# The good client's cannot be shut down.
Manager.register("Kept", Queue, exposed=("put", "get", "qsize", "task_done", "join"))


class FuzzedServer(Server):
    """Nobody ends it."""

    public: ClassVar[list[str]] = [name for name in Server.public if name != "shutdown"]


class Harness:
    """A server, one good client of it, and the troubles that have come to light."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        handler = logging.Handler()
        handler.emit = self.note  # type: ignore[method-assign]
        util.get_logger().addHandler(handler)
        util.get_logger().setLevel(util.SUBWARNING)
        threading.excepthook = lambda args: self.troubles.append(repr(args))
        sys.unraisablehook = lambda args: self.troubles.append(repr(args))
        self.server = FuzzedServer(Manager._registry, None, KEY, "pickle")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.good = self.login(bytes(16))
        self.base = 0

    def note(self, record: logging.LogRecord) -> None:
        """Keep what the server did not expect, but for want of memory."""
        if "MemoryError: no memory for a frame" not in record.getMessage():
            self.troubles.append(record.getMessage())

    def login(self, session: bytes) -> socket.socket:
        stream = connect(self.server.address, KEY, Introducer(session, "").introduce)
        with contextlib.closing(stream):
            stream.recv_bytes()
            sock = socket.socket(fileno=os.dup(stream.fileno()))
        sock.settimeout(PATIENCE)
        return sock

    def ask(self, op: int, handle: int, *values: object) -> tuple[int, object]:
        """The good client is served: the handle and the value of the reply."""
        body = b"".join(map(dumps, values))
        self.good.sendall(HEADER.pack(len(body), handle, 7, 0, op, 0) + body)
        header = self.good.recv(HEADER.size, socket.MSG_WAITALL)
        size, handle, call, _, op, _ = HEADER.unpack(header)
        assert (call, op) == (7, Op.OP_RETURN), (call, op)
        return handle, loads(self.good.recv(size, socket.MSG_WAITALL))

    def renew(self) -> None:
        """Give the good client a queue and a lock that nobody has used."""
        release = struct.pack("<QQQQ", self.base, 1, self.base + 1, 1)
        self.good.sendall(HEADER.pack(len(release), 0, 0, 0, RELEASE, 0) + release)
        self.base, _ = self.ask(CREATE, 0, "Kept", (), {})
        self.ask(CREATE, 0, "Lock", (), {})

    def check_shared(self, orderly: bool) -> None:
        """Nobody who has gone takes an item or, unless it went in order, has kept the lock."""
        self.ask(CALL, self.base, "put", (1,), {})
        assert self.ask(CALL, self.base, "qsize", (), {})[1], "a dead client took an item"
        end = time.monotonic() + PATIENCE
        while not (orderly or self.ask(CALL, self.base + 1, "acquire", (False,), {})[1]):
            assert time.monotonic() < end, "a dead client holds the lock"

    def words(self) -> bytes:
        """What says which versions objects have; nothing, for the good client's have none."""
        segment = self.server.arena.segments.get(VERSIONS) if self.server.arena else None
        return b"" if segment is None else bytes(memoryview(segment)[:4096]).strip(b"\0")

    def settle(self, kept: float) -> None:
        """Nothing is left of other clients but `kept` objects at most, which go now."""
        table, engine, end = self.server.table, self.server._engine, time.monotonic() + PATIENCE
        own = (self.base, self.base + 1)
        while True:
            others = [entry.ident for entry in list(table.entries.values()) if entry.key not in own]
            if len(others) <= kept and len(table.sessions) == len(engine.loop.conns) == 1:
                for ident in others:
                    table.remove(ident)
                if not (Box.alive or self.words()) and threading.active_count() <= MOST_THREADS:
                    break
            left = (len(table.sessions), len(engine.loop.conns), others, Box.alive, self.words())
            assert time.monotonic() < end, f"left: {left}, {threading.active_count()} threads"
            time.sleep(0.0003)
        assert not self.troubles, self.troubles[0]
