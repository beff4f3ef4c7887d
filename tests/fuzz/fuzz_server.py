"""A server serves others as before, and forgets a client, whatever that client has asked of it.

The client knows the key and speaks the fast dialect, on one or two connections. Handles count from
an object that is new for each input, so that an input means the same in each run.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys

from common import fuzz, instrumented
from server_harness import PATIENCE, Harness
from server_inputs import (
    ABORT,
    ANONYMOUS,
    CONTROL,
    GOODBYE,
    HANG_UP,
    HEADER,
    RAW,
    UNKNOWN,
    Record,
    parse,
    seeds,
    words,
)

with instrumented():
    from fastmgr.link.cutter import Op

REPLIES = {op for op in Op if op >= Op.OP_RETURN}
QUIET = 0.003  # seconds after which a server that has said nothing is taken to wait


def listen(sock: socket.socket, patience: float) -> tuple[bytes, bool]:
    """What the server says, and whether it has hung up."""
    said = b""
    sock.settimeout(patience)
    with contextlib.suppress(ConnectionResetError):
        try:
            while more := sock.recv(1 << 16):
                said += more
        except TimeoutError:
            return said, False
    return said, True


def check_replies(said: bytes, calls: int) -> None:
    """Whole replies to some of the calls, in their order, and failures told before them."""
    last = 0
    while said:
        assert len(said) >= HEADER.size, "half a header"
        size, _, call, _, op, _ = HEADER.unpack_from(said)
        assert len(said) >= HEADER.size + size, "half a reply"
        assert last < call <= calls and op in REPLIES, (last, call, op)
        last, said = call - (op == Op.OP_FAILED), said[HEADER.size + size :]


def converse(sock: socket.socket, row: list[Record], mode: int) -> None:
    if mode & ABORT:
        return
    said, ended = (b"", False) if mode & HANG_UP else listen(sock, QUIET)
    if not ended:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        rest, ended = listen(sock, PATIENCE)
        assert ended, "the server does not hang up"
        said += rest
    if all(record.op != RAW for record in row):
        check_replies(said, len(row))


def one_input(data: bytes) -> None:
    harness.renew()
    mode, records = (data[0] if data else 0), parse(data[1:])
    rows = [[record for record in records if record.second == second] for second in (False, True)]
    session = os.urandom(16)
    with contextlib.ExitStack() as stack:
        clients = [(stack.enter_context(harness.login(session)), row) for row in rows if row]
        for sock, row in clients:
            if not mode & HANG_UP:
                row.append(Record(UNKNOWN, 0, 0, 0, b"", False))  # it hangs up for that
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                frames = (record.frame(call, harness.base) for call, record in enumerate(row, 1))
                sock.sendall(b"".join(frames))
        for sock, row in clients:
            converse(sock, row, mode)
    ops = {record.op for record in records}
    keeping = [record for record in records if record.op == CONTROL or record.flags & ANONYMOUS]
    harness.settle(float("inf") if RAW in ops else len(keeping))
    harness.check_shared(orderly=bool(ops & {GOODBYE, RAW}))


def forbid(event: str, _: object) -> None:
    """A pickle may name nothing: what the fuzzer invents must not run."""
    if event == "pickle.find_class":
        raise pickle.UnpicklingError("nothing can be named here")


if __name__ == "__main__":
    sys.addaudithook(forbid)
    harness = Harness()
    fuzz(one_input, seeds(), words())
