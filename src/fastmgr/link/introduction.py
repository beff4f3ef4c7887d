"""How a fast client makes itself known to a server of which it knows nothing.

The introduction is a stock-shaped request, ``(None, '#fastmgr', (payload,), {})``, whose pickle is
spelled out here byte for byte: our server knows it without unpickling anything, and a stock server
refuses it as any function that it does not have.  The answer is no pickle, so the client can tell
it from a stock server's before it reads anything of it.

Each has a proof (`handshake.prove`) that its sender has the key and that role in this handshake.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from multiprocessing import AuthenticationError
from typing import Any, NamedTuple

from fastmgr.link.handshake import PROOF_SIZE
from fastmgr.wire.codec import dumps, loads

__all__ = [
    "SESSION_ID_SIZE", "Introducer", "Introduction", "answer_introduction", "introduction",
    "is_off", "is_proved", "parse_introduction", "stock_is_refused",
]  # fmt: skip

VERSION = 3
SESSION_ID_SIZE = 16
THREAD_SIZE = 3

#: The method of either half of a handshake.
Prove = Callable[[str, bytes], bytes]

_HEAD = b"\x80\x03(NX\x08\x00\x00\x00#fastmgrC"
_TAIL = b"\x85}t."
_MOST_NAME_BYTES = 160  # the whole must fit the limit of a handshake's frames
_MOST_HOST_BYTES = 48
_MOST_PID_DIGITS = 10
_UNIT = "\x1f"  # between the name, the process and the host, which older peers do not tell
_ANSWER = b"#FASTMGR#" + bytes((VERSION,))


def is_off(variable: str) -> bool:
    """Whether an environment variable says ``off``; a variable that is not set says ``on``."""
    said = os.environ.get(variable, "on")
    word = said.strip().lower()
    if word not in ("on", "off"):  # its user may believe to have turned something off
        raise ValueError(f"{variable}={said!r} in the environment: 'on' or 'off' is needed")
    return word == "off"


def stock_is_refused() -> bool:
    """Whether peers that cannot prove as much as ours are refused (FASTMGR_STOCK_PEERS=off)."""
    return is_off("FASTMGR_STOCK_PEERS")


class Introduction(NamedTuple):
    """What a client says of itself."""

    session_id: bytes
    #: Of the thread, as the server's thread is called while it serves the connection.
    name: str
    #: The number of the client's thread in its process, from 1.
    thread: int
    #: Of the process, as that sees itself; None and "" from peers that do not tell.
    pid: int | None = None
    host: str = ""


def introduction(
    session_id: bytes, name: str, thread: int, prove: Prove, pid: int | None = None, host: str = ""
) -> bytes:
    """Return the first request of a client that speaks the fast dialect.

    The session's id names the client's process; `Introduction` says what the others are.
    """
    home = b""
    if pid is not None:
        home = f"{_UNIT}{pid}{_UNIT}".encode() + host.encode("utf-8", "replace")[:_MOST_HOST_BYTES]
    encoded = name.encode("utf-8", "replace")[: _MOST_NAME_BYTES - len(home)] + home
    said = bytes((VERSION,)) + session_id + thread.to_bytes(THREAD_SIZE, "little") + encoded
    payload = said + prove("client", said)
    return _HEAD + bytes((len(payload),)) + payload + _TAIL


def parse_introduction(frame: bytes) -> Introduction | None:
    """Return what an introduction says; None for any other request."""
    if not (frame.startswith(_HEAD) and frame.endswith(_TAIL)):
        return None
    said = frame[len(_HEAD) + 1 : -len(_TAIL) - PROOF_SIZE]
    end = 1 + SESSION_ID_SIZE
    name = end + THREAD_SIZE
    if len(said) < name or said[0] != VERSION:
        return None
    thread = int.from_bytes(said[end:name], "little")
    text = said[name:].decode("utf-8", "replace")
    called, *home = text.rsplit(_UNIT, 2)
    if len(home) == 2 and home[0].isdecimal() and len(home[0]) <= _MOST_PID_DIGITS:
        return Introduction(said[1:end], called, thread, int(home[0]), home[1])
    return Introduction(said[1:end], text, thread)


def is_proved(frame: bytes, prove: Prove) -> bool:
    """Whether the sender of an introduction has the key and is the client of this handshake."""
    said = frame[len(_HEAD) + 1 : -len(_TAIL)]
    return hmac.compare_digest(prove("client", said[:-PROOF_SIZE]), said[-PROOF_SIZE:])


def answer_introduction(frame: bytes, values: tuple[Any, ...], prove: Prove) -> bytes:
    """Return the frame that answers an introduction by plain values and the server's proof."""
    encoded = dumps(values)
    return _ANSWER + prove("server", frame + encoded) + encoded


class Introducer:
    """The client's part: to make its `introduction` and to read the answer."""

    def __init__(self, session_id: bytes, name: str, thread: int = 1) -> None:
        self._says = session_id, name, thread

    def introduce(self, prove: Prove) -> bytes:
        """Return the introduction, for a handshake that is about to end."""
        self._prove = prove
        self._frame = introduction(*self._says, prove, os.getpid(), os.uname().nodename)
        return self._frame

    def read_answer(self, frame: bytes) -> Any:
        """Return the values of the answer; None where the server does not speak the fast dialect.

        AuthenticationError says that the server has not proved the key.
        """
        if not frame.startswith(_ANSWER):
            return None
        proof, values = frame[len(_ANSWER) :][:PROOF_SIZE], frame[len(_ANSWER) + PROOF_SIZE :]
        if not hmac.compare_digest(self._prove("server", self._frame + values), proof):
            raise AuthenticationError(
                "the server did not prove that it has the key: another may answer in its place"
            )
        return loads(values, allow_pickle=False)
