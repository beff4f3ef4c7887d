"""What can go wrong with a server: exceptions, and which error reply becomes which of them."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from typing import Any

from fastmgr.stock.dialect import LockLost as LockLost, RemoteError, StaleFence

__all__ = [
    "CODES", "ConnectionLost", "LockLost", "PipelineError", "ProtocolError", "ReplyError",
    "exception_of", "lost_again", "why_unsent",
]  # fmt: skip


class ConnectionLost(ConnectionError):
    """The connection was lost; the message says what became of the call.

    Parameters
    ----------
    message : str
        What happened.
    applied : bool, optional
        As the attribute.

    Attributes
    ----------
    applied : bool or None
        False: the server has not run the call.  None: nobody knows whether the server has run it.
    """

    def __init__(self, message: str, applied: bool | None = None) -> None:
        super().__init__(message)
        self.applied = applied

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.applied)


class PipelineError(ConnectionLost):
    """The connection was lost within a pipeline.

    Parameters
    ----------
    message : str
        What happened.
    results, unknown
        The attributes.

    Attributes
    ----------
    results : list
        What the calls came to that were answered: of a single server the first ones.  The nodes of
        a cluster answer by themselves: None stands in the place of each call that is unknown.
    unknown : sequence of int
        Which calls the server may have run, or may not have run.
    """

    def __init__(self, message: str, results: list[Any], unknown: Sequence[int]) -> None:
        super().__init__(message)
        self.results = results
        self.unknown = unknown

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.results, self.unknown)


class ProtocolError(ConnectionError):
    """The server sent bytes that are no RESP3."""


class ReplyError:
    """An error that a server has replied: a value, which `exception_of` makes an exception.

    Attributes
    ----------
    code : str
        The first word: ``ERR``, ``WRONGTYPE``, ``FM`` (a function of our library) ...
    text : str
        The other words.
    """

    __slots__ = ("code", "text")

    def __init__(self, line: bytes) -> None:
        self.code, _, self.text = line.decode("utf-8", "replace").partition(" ")

    @property
    def is_missing_function(self) -> bool:
        """Whether the server has no such function: nothing has run."""
        return self.code == "ERR" and "unction not found" in self.text

    def __repr__(self) -> str:
        return f"<ReplyError {self.code} {self.text}>"

    def __str__(self) -> str:
        return f"{self.code} {self.text}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplyError) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]


for _seen in (ConnectionLost, LockLost, PipelineError):
    _seen.__module__ = "fastmgr"  # where users find it
del _seen

#: By the code in ``FM <code> <text>``: the type of the exception, which gets the text.
CODES: dict[str, type[Exception]] = {
    "ASSERTION": AssertionError,
    "ATTRIBUTE": AttributeError,
    "BROKEN": threading.BrokenBarrierError,
    "EMPTY": queue.Empty,
    "FULL": queue.Full,
    "GONE": RemoteError,
    "INDEX": IndexError,
    "KEY": KeyError,
    "OVERFLOW": OverflowError,
    "RUNTIME": RuntimeError,
    "STALE": StaleFence,
    "TYPE": TypeError,
    "VALUE": ValueError,
}
if hasattr(queue, "ShutDown"):  # Python 3.13
    CODES["SHUTDOWN"] = queue.ShutDown


#: By the code of an error reply: what the user needs to know besides.
HINTS = {
    "BUSY": "a script runs on and on; the call was not made. SCRIPT KILL ends the script",
    "LOADING": "the server reads its data; the call was not made",
    "MISCONF": "the server cannot write its data to the disk; the call was not made",
    "OOM": "the server's memory is full, as its maxmemory says; nothing was changed",
    "READONLY": "the server is a replica, and its primary cannot be reached; nothing was changed",
}


#: Parts of error replies by which the ACL forbids something, also within our functions.
FORBIDDEN = "NOPERM", "ACL failure in script", "The user executing the script can't"
#: By a word of such a reply: what the user needs, which the server does not say.
RIGHTS = {
    "key": "the keys ~{<ns>:* and ~{<ns>}:*",
    "channel": "the channels &fm:s:*",
    "this command or subcommand": "each command that the library of functions calls",
}

#: Bytes of a request that a server may find too many.
LARGE = 1 << 20


def why_unsent(said: ReplyError | None, number: int, size: int) -> str:
    """Return why a server has not taken the whole of a request.

    Parameters
    ----------
    said : ReplyError or None
        What it has said before it closed the connection.
    number : int
        The error of the system, negative.
    size : int
        Bytes of the request, or of all requests that were sent together.
    """
    if said is not None:
        if "invalid bulk length" in said.text:
            return f"{said}: a value is larger than the server's proto-max-bulk-len"
        return str(said)
    why = os.strerror(-number)
    if size > LARGE:
        return f"{why}: {size:,} bytes may be more than the server's client-query-buffer-limit"
    return why


def lost_again(error: ConnectionLost) -> ConnectionLost:
    """Return the error of a request that only reads, by which each connection is lost."""
    return ConnectionLost(
        f"{str(error).partition(';')[0]}, and so was the one before; the call only reads. The "
        "reply may be larger than the server's client-output-buffer-limit for normal clients",
        error.applied,
    )


def exception_of(reply: ReplyError, args: Sequence[Any] = ()) -> Exception:
    """Return the exception for an error reply; `args` are those of the call."""
    if reply.code == "FM":
        code, _, text = reply.text.partition(" ")
        kind = CODES.get(code, RemoteError)
        if kind is KeyError:
            return KeyError(args[0] if args else text)
        return kind(text) if text else kind()
    if any(part in str(reply) for part in FORBIDDEN):
        needs = [right for part, right in RIGHTS.items() if part in reply.text]
        return AuthenticationError(
            f"the server's ACL does not let the user do that: {reply} (the user needs "
            f"{needs[0] if needs else 'that right'}: docs/valkey.md has an example)"
        )
    if reply.code in ("NOAUTH", "WRONGPASS"):
        return AuthenticationError(str(reply))
    hint = HINTS.get(reply.code)
    return RemoteError(f"the server replied: {reply}" + (f" ({hint})\n" if hint else "\n"))
