"""How a fast client makes itself known to a server it knows nothing of.

The introduction is a stock-shaped request, ``(None, '#fastmgr', (payload,), {})``,
whose pickle is spelled out here byte for byte: our server knows it without
unpickling anything, and a stock server refuses it as it refuses any function
that it does not have.  The answer is stock-shaped too.
"""

from __future__ import annotations

__all__ = ["SESSION_ID_SIZE", "introduction", "parse_introduction"]

VERSION = 2
SESSION_ID_SIZE = 16
THREAD_SIZE = 3

_HEAD = b"\x80\x03(NX\x08\x00\x00\x00#fastmgrC"
_TAIL = b"\x85}t."
_MOST_NAME_BYTES = 200  # with the rest it must fit the one-byte length of a short bytes opcode


def introduction(session_id: bytes, name: str, thread: int = 1) -> bytes:
    """Return the first request of a client that speaks the fast dialect.

    Parameters
    ----------
    session_id : bytes
        `SESSION_ID_SIZE` random bytes that name the client process.
    name : str
        What the server's thread is called while it serves this connection.
    thread : int
        The thread's number in the process, from 1: the same for all of its connections.
    """
    encoded = name.encode("utf-8", "replace")[:_MOST_NAME_BYTES]
    payload = bytes((VERSION,)) + session_id + thread.to_bytes(THREAD_SIZE, "little") + encoded
    return _HEAD + bytes((len(payload),)) + payload + _TAIL


def parse_introduction(frame: bytes) -> tuple[bytes, str, int] | None:
    """Return the session's id, the thread's name and number; None if it is another request."""
    if not (frame.startswith(_HEAD) and frame.endswith(_TAIL)):
        return None
    payload = frame[len(_HEAD) + 1 : -len(_TAIL)]
    end = 1 + SESSION_ID_SIZE
    name = end + THREAD_SIZE
    if len(payload) < name or payload[0] != VERSION:
        return None
    thread = int.from_bytes(payload[end:name], "little")
    return payload[1:end], payload[name:].decode("utf-8", "replace"), thread
