"""One call that waits, and what the methods of all that can be waited for share.

A waiter is a record on the server (see ``lua/waiters.lua``); the client blocks at the list to which
the waiter's token is pushed.  Now and then the client *looks*: the function behind that hands on
what a dead client held, and tells a waiter whose token was lost what it has been granted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastmgr.client.limits import CallTimeout, unlimited
from fastmgr.engines.valkey.commands import METHODS, FunctionMethod
from fastmgr.engines.valkey.errors import ReplyError, exception_of

__all__ = [
    "LOOK_AFTER", "LOOK_SELDOM", "MOST", "SeldomWait", "Wait", "counted", "declare", "give_back",
    "make", "seconds_of", "shown_at", "timeout_of",
]  # fmt: skip

#: Seconds after which the first in a queue looks whether the holder lives.
LOOK_AFTER = 0.1
#: Seconds after which a waiter looks that nobody's death can serve, or that is far from the head.
LOOK_SELDOM = 2.0
#: Seconds for a server to answer beyond those that the request is to wait there.
SLACK = 3.0

#: The largest number of permits or items, as with the other engine.
MOST = 2**63 - 1


class Wait:
    """One call that may wait.

    Parameters
    ----------
    session : ValkeySession
    key : bytes
        The main key of the object with whose name the functions are called.
    kind : bytes
        What the names of the functions begin with: ``<kind>_look``, ``_expire``, ``_withdraw``.
    keys : bytes
        Further keys of the functions.
    """

    def __init__(self, session: Any, key: bytes, kind: bytes, *keys: bytes) -> None:
        session.life.begin()
        self.session = session
        self.kind = kind
        self.keys = (key, *keys)
        self.id = session.id
        self.name = session.life.name()
        self.deadline: float | None = None
        self.end_at: float | None = None
        #: Seconds for a server that is away to be there again.
        self.patience = session.patience
        #: The server has said how the call ends, or cannot be reached: nothing is to be undone.
        self.answered = False
        self.is_undone = False
        #: What the functions that look get besides the waiter's name.
        self.looks_with: tuple[Any, ...] = ()

    def request(self, function: bytes, *args: Any) -> list[Any]:
        """Return the request that calls a function for this waiter."""
        keys = self.keys
        return [b"FCALL", b"fm1_" + function, len(keys), *keys, self.name, *args]

    def ask(self, function: bytes, *args: Any, timeout: float | None = None) -> Any:
        """Call a function for this waiter; raise what an error reply stands for."""
        reply = self.session.ask(self.request(function, *args), timeout=timeout)
        if type(reply) is ReplyError:
            self.answered = True
            raise exception_of(reply)
        return reply

    def begin(self, function: bytes, *args: Any, timeout: float | None = None) -> list[Any] | None:
        """Ask for something and wait for it.

        Returns
        -------
        list or None
            The reply that grants it; None where it was not granted in time, or the session has been
            taken for dead.
        """
        answer_in = None
        if timeout is not None:
            self.deadline = self.end_at = time.monotonic() + timeout
            self.patience = SLACK
            answer_in = max(timeout, 0) + SLACK
        try:
            reply = self.ask(function, *args, timeout=answer_in)
            return reply if reply[0] == 1 else self.wait(reply)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """An exception ends the call: take the wait back, once, unless it is known how it ended."""
        if not (self.answered or self.is_undone):
            self.is_undone = True
            with unlimited():  # the server has a limit of its own for that
                self.withdraw()

    def wait(self, reply: list[Any]) -> list[Any] | None:
        """Wait until a reply says no longer that this waiter has its place in a queue."""
        while reply[0] == 2:
            if self.is_void():
                return self.settle()
            left = None if self.deadline is None else self.deadline - time.monotonic()
            if left is not None and left <= 0:
                self.deadline = None
                reply = self.persist(b"_expire")
                continue
            pause = self.pause(reply[1])
            token = self.block(pause if left is None else min(pause, left))
            reply = self.persist(b"_look") if token is None else self.granted(token)
        return self.end(reply)

    def pause(self, position: int) -> float:
        """Return after how many seconds a waiter at that position looks."""
        return min(LOOK_AFTER * (1 + position), LOOK_SELDOM)

    def granted(self, token: bytes) -> list[Any]:
        """Return the reply that a token stands for."""
        return [1]

    def end(self, reply: list[Any]) -> list[Any] | None:
        """Return the reply that grants; None where nothing is granted."""
        if reply[0] == 3:
            # The record is gone and the token lost: it was granted, unless the session was taken
            # for dead.
            return [1] if self.session.life.is_seen(self.id) else None
        return reply if reply[0] == 1 else None

    def block(self, seconds: float) -> bytes | None:
        """Wait for the token; None where there is none yet, or the connection was lost."""
        seconds = max(seconds, 0.001)
        tokens = b"%b:w:%b" % (self.keys[-1], self.name)
        words = [b"BLPOP", tokens, b"%.3f" % seconds]
        try:
            reply = self.session.ask(words, timeout=seconds + SLACK)
        except OSError as error:
            if not _is_away(error):
                raise
            return None
        if type(reply) is ReplyError:
            if reply.code in ("UNBLOCKED", "READONLY"):  # by the look it is decided
                return None
            raise exception_of(reply)
        return None if reply is None else bytes(reply[1])

    def persist(self, function: bytes) -> Any:
        """Call a function that may be called again, also where the server is away for a while."""
        end = time.monotonic() + self.patience
        pause = 0.01
        failure: Exception
        while True:
            try:
                reply = self.session.ask(
                    self.request(self.kind + function, *self.looks_with), timeout=SLACK
                )
                if type(reply) is not ReplyError:
                    return reply
                failure = exception_of(reply)
                if reply.code != "READONLY":  # that is a replica whose primary is away
                    self.answered = True
                    raise failure
            except OSError as error:
                if not _is_away(error):
                    raise
                failure = error
            if time.monotonic() > end:
                self.answered = True
                self.session.life.owe(self.request(self.kind + b"_withdraw"))
                raise failure
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def settle(self) -> list[Any] | None:
        """The session has been taken for dead: say whether the call was served before."""
        return None

    def is_void(self) -> bool:
        """Whether the session was taken for dead meanwhile: the call is to be made again."""
        return bool(self.id != self.session.id)

    def left(self) -> float | None:
        """Return how many seconds of the timeout are left."""
        return None if self.end_at is None else max(0.0, self.end_at - time.monotonic())

    def withdraw(self) -> None:
        """Leave the queue, and give back what was granted: the caller has been interrupted."""
        self.session.life.withdraw(self.request(self.kind + b"_withdraw"))


def seconds_of(timeout: Any) -> float:
    """Return a timeout as a float; TypeError for a str, which `float` would take."""
    return math.copysign(timeout, timeout)


def timeout_of(timeout: Any) -> float | None:
    """Return a timeout as seconds; TypeError or ValueError for one that is no number."""
    if timeout is None:
        return None
    seconds = seconds_of(timeout)
    if seconds != seconds:
        raise ValueError(f"timeout={timeout}: no number of seconds")
    return seconds


def _is_away(error: OSError) -> bool:
    """Whether an error says that the server is away.

    The others are of signals' handlers, or say that the time of the caller's block is over.
    """
    if isinstance(error, CallTimeout):
        return False
    if isinstance(error, TimeoutError):
        return error.errno is not None
    return isinstance(error, (ConnectionError, FileNotFoundError))


def _was_not_made(error: OSError) -> bool:
    """Whether a request has certainly not reached the server."""
    return isinstance(error, (ConnectionRefusedError, FileNotFoundError)) or (
        getattr(error, "applied", None) is False
    )


def give_back(
    session: Any, key: bytes, request: list[Any], number: int = 1, grant: Sequence[int] = ()
) -> None:
    """Give back a lock or permits, also where the server is away for a while.

    Parameters
    ----------
    session : ValkeySession
    key : bytes
    request : list
        What gives back.
    number : int
        How many permits.
    grant : sequence of int
        Behind the request these make one that may be made again though the server may have served
        the first. If the server stays away it is made when the server is there again.
    """
    again = [*request, *grant]
    end = time.monotonic() + session.patience
    pause = 0.01
    reply: Any = None
    while True:
        try:
            reply = session.ask(request)
            if type(reply) is not ReplyError or reply.code != "READONLY" or time.monotonic() > end:
                break
        except BaseException as error:
            if session.retired:
                raise
            if not isinstance(error, OSError) or not _is_away(error):
                # Of a signal's handler, which does not know that the lock is held on.
                if grant:
                    session.life.withdraw(again)
                    session.life.gave(key)
                raise
            if not _was_not_made(error):
                if not grant:
                    raise
                request = again
            if time.monotonic() > end:
                if grant:
                    session.life.owe(again)
                    session.life.gave(key)
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    if type(reply) is ReplyError:
        raise exception_of(reply)
    session.life.gave(key, number)


class SeldomWait(Wait):
    """A call that waits for what nobody's death brings about."""

    def pause(self, position: int) -> float:
        return LOOK_SELDOM


def counted(number: Any) -> int:
    """Return a number of permits or parties; `threading` takes a float, too."""
    if number != int(number):
        raise ValueError(f"{number!r}: a whole number is needed")
    return int(number)


# -- methods ------------------------------------------------------------------------


def make(session: Any, key: bytes, typeid: str, *fields: Any) -> None:
    session.life.begin()
    session.function(b"make", key, typeid, session.id, *fields)


def shown_at(key: bytes) -> str:
    """What a representation shows in place of an address."""
    return f"0x{key.rstrip(b'}').rpartition(b'-')[2].decode()}"


def declare(typeid: str, **functions: Callable[..., Any]) -> None:
    names = {"create": "#create", "attribute": "__getattribute__", "show": "__str__"}
    table = METHODS.setdefault(typeid, {})
    for name, function in functions.items():
        table[names.get(name, name)] = FunctionMethod(function)
    if "show" in functions:
        table["__repr__"] = table["__str__"]
