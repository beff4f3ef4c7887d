"""How a fast client makes itself known to a server it knows nothing of.

The introduction is a stock-shaped request, ``(None, '#fastmgr', (payload,), {})``,
whose pickle is spelled out here byte for byte: our server knows it without
unpickling anything, and a stock server refuses it as it refuses any function
that it does not have.  The answer is no pickle, which tells ours from a stock
server's before anything of it is read.

Each carries a proof (`handshake.prove`): its sender has the key and that role, in this very
handshake.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from multiprocessing import AuthenticationError
from typing import Any

from fastmgr.link.handshake import PROOF_SIZE
from fastmgr.wire.codec import dumps, loads

__all__ = [
    "SESSION_ID_SIZE", "Introducer", "answer_introduction", "introduction", "is_off", "is_proved",
    "parse_introduction", "stock_is_refused",
]  # fmt: skip

VERSION = 3
SESSION_ID_SIZE = 16
THREAD_SIZE = 3

#: What a handshake's half offers: the proof of a role for some bytes.
Prove = Callable[[str, bytes], bytes]

_HEAD = b"\x80\x03(NX\x08\x00\x00\x00#fastmgrC"
_TAIL = b"\x85}t."
_MOST_NAME_BYTES = 160  # with the rest it must fit the limit of a handshake's frames
_ANSWER = b"#FASTMGR#" + bytes((VERSION,))


def is_off(variable: str) -> bool:
    """Whether an environment variable says ``off``; a variable that is not set says ``on``.

    Raises
    ------
    ValueError
        It says neither ``on`` nor ``off``: its user may only believe to have turned this off.
    """
    said = os.environ.get(variable, "on")
    word = said.strip().lower()
    if word not in ("on", "off"):
        raise ValueError(f"{variable}={said!r} in the environment: 'on' or 'off' is needed")
    return word == "off"


def stock_is_refused() -> bool:
    """Whether peers that cannot prove as much as ours are refused (FASTMGR_STOCK_PEERS=off)."""
    return is_off("FASTMGR_STOCK_PEERS")


def introduction(session_id: bytes, name: str, thread: int, prove: Prove) -> bytes:
    """Return the first request of a client that speaks the fast dialect.

    Parameters
    ----------
    session_id : bytes
        `SESSION_ID_SIZE` random bytes that name the client process.
    name : str
        The name of the server's thread while it serves this connection.
    thread : int
        The client thread's number in its process, from 1: the same for all of its connections.
    prove : callable
        The handshake's.
    """
    encoded = name.encode("utf-8", "replace")[:_MOST_NAME_BYTES]
    said = bytes((VERSION,)) + session_id + thread.to_bytes(THREAD_SIZE, "little") + encoded
    payload = said + prove("client", said)
    return _HEAD + bytes((len(payload),)) + payload + _TAIL


def parse_introduction(frame: bytes) -> tuple[bytes, str, int] | None:
    """Return the session's id, the thread's name and number; None if it is another request."""
    if not (frame.startswith(_HEAD) and frame.endswith(_TAIL)):
        return None
    said = frame[len(_HEAD) + 1 : -len(_TAIL) - PROOF_SIZE]
    end = 1 + SESSION_ID_SIZE
    name = end + THREAD_SIZE
    if len(said) < name or said[0] != VERSION:
        return None
    thread = int.from_bytes(said[end:name], "little")
    return said[1:end], said[name:].decode("utf-8", "replace"), thread


def is_proved(frame: bytes, prove: Prove) -> bool:
    """Whether the sender of an introduction has the key and is the client of this handshake."""
    said = frame[len(_HEAD) + 1 : -len(_TAIL)]
    return hmac.compare_digest(prove("client", said[:-PROOF_SIZE]), said[-PROOF_SIZE:])


def answer_introduction(frame: bytes, values: tuple[Any, ...], prove: Prove) -> bytes:
    """Return the frame that answers an introduction: plain values, and the server's proof."""
    encoded = dumps(values)
    return _ANSWER + prove("server", frame + encoded) + encoded


class Introducer:
    """A client's part: its `introduction`, and what it makes of the answer."""

    def __init__(self, session_id: bytes, name: str, thread: int = 1) -> None:
        self._says = session_id, name, thread

    def introduce(self, prove: Prove) -> bytes:
        """Return the introduction, for a handshake that is about to end."""
        self._prove = prove
        self._frame = introduction(*self._says, prove)
        return self._frame

    def read_answer(self, frame: bytes) -> Any:
        """Return the values of the answer; None where the server has not the fast dialect.

        Raises
        ------
        AuthenticationError
            The server has not proved that it has the key.
        """
        if not frame.startswith(_ANSWER):
            return None
        proof, values = frame[len(_ANSWER) :][:PROOF_SIZE], frame[len(_ANSWER) + PROOF_SIZE :]
        if not hmac.compare_digest(self._prove("server", self._frame + values), proof):
            raise AuthenticationError(
                "the server did not prove that it has the key: another may answer in its place"
            )
        return loads(values, allow_pickle=False)
