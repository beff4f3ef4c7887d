# cython: auto_pickle=False, boundscheck=True, wraparound=True
"""One call that waits, and what the methods of all that can be waited for share.

A waiter is a record on the server (see ``lua/waiters.lua``); the client blocks at the list to which
the waiter's token is pushed.  Now and then the client *looks*: the function behind that hands on
what a dead client held, and tells a waiter whose token was lost what it has been granted.

Compiled, so that a signal's handler can raise only where a request is under way, or in the Python
code of a subclass: `Wait.begin` takes the wait back then.
"""

from fastmgr.engines.valkey.grants cimport Grants
from fastmgr.engines.valkey.session cimport ValkeySession

import math
import time

from fastmgr.client.limits import CallTimeout, unlimited
from fastmgr.engines.valkey.commands import METHODS, FunctionMethod
from fastmgr.engines.valkey.errors import ReplyError, exception_of

#: Seconds after which the first in a queue looks whether the holder lives.
LOOK_AFTER = 0.1
#: Seconds after which a waiter looks that nobody's death can serve, or that is far from the head.
LOOK_SELDOM = 2.0
#: Seconds for a server to answer beyond those that the request is to wait there.
SLACK = 3.0

#: The largest number of permits or items, as with the other engine.
MOST = 2**63 - 1


cdef inline object ask_server(object session, object words, object timeout):
    """What `ValkeySession.ask` returns."""
    if isinstance(session, ValkeySession):
        return (<ValkeySession>session).ask(words, False, timeout)
    return session.ask(words, timeout=timeout)


cdef class Wait:
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

    Attributes
    ----------
    name : bytes
        What the server calls the waiter.
    patience : float
        Seconds for a server that is away to be there again.
    answered : bool
        The server has said how the call ends, or cannot be reached: nothing is to be undone.
    """

    def __init__(self, session, bytes key, bytes kind, *keys):
        self.prepare(session, (key, *keys), kind)

    cdef int prepare(self, object session, tuple keys, bytes kind) except -1:
        cdef Grants life = session.life
        if not life.is_begun():
            session.life.begin()
        self.session = session
        self.kind = kind
        self.keys = keys
        self.id = session.id
        self.name = life.name()
        self.patience = session.patience
        self.looks_with = ()
        return 0

    cdef list request_for(self, bytes function):
        """The request that calls a function for this waiter; its other arguments are to follow."""
        cdef list request = [b"FCALL", b"fm1_" + function]
        if len(self.keys) == 1:
            request += [b"1", self.keys[0], self.name]
        else:
            request += [len(self.keys), *self.keys, self.name]
        return request

    def request(self, bytes function, *args):
        """Return the request that calls a function for this waiter."""
        return self.request_for(function) + list(args)

    def ask(self, bytes function, *args, timeout=None):
        """Call a function for this waiter; raise what an error reply stands for."""
        return self.make(self.request(function, *args), timeout)

    cdef object make(self, list request, object timeout):
        cdef object reply = ask_server(self.session, request, timeout)
        if type(reply) is ReplyError:
            self.answered = True
            raise exception_of(reply)
        return reply

    def begin(self, bytes function, *args, timeout=None):
        """Ask for something and wait for it.

        Returns
        -------
        list or None
            The reply that grants it; None where it was not granted in time, or the session has been
            taken for dead.
        """
        return self.go(self.request_for(function) + list(args), timeout)

    cdef object go(self, list request, object timeout):
        """Make the request of a call, and wait for what it asks for; as `begin` returns it."""
        cdef object reply, answer_in = None
        if timeout is not None:
            self.deadline = self.end_at = time.monotonic() + timeout
            self.patience = SLACK
            answer_in = max(timeout, 0) + SLACK
        try:
            reply = self.make(request, answer_in)
            return reply if reply[0] == 1 else self.wait(reply)
        except BaseException:
            self.undo()
            raise

    def undo(self):
        """An exception ends the call: take the wait back, once, unless it is known how it ended."""
        if self.name is None or self.answered or self.undone:
            return      # also where the server has never heard of it
        with unlimited():  # the server has a limit of its own for that
            self.withdraw()
        self.undone = True

    def wait(self, list reply):
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

    def pause(self, position):
        """Return after how many seconds a waiter at that position looks."""
        return min(LOOK_AFTER * (1 + position), LOOK_SELDOM)

    def granted(self, bytes token):
        """Return the reply that a token stands for."""
        return [1]

    def end(self, list reply):
        """Return the reply that grants; None where nothing is granted."""
        if reply[0] == 3:
            # The record is gone and the token lost: it was granted, unless the session was taken
            # for dead.
            return [1] if self.session.life.is_seen(self.id) else None
        return reply if reply[0] == 1 else None

    def block(self, seconds):
        """Wait for the token; None where there is none yet, or the connection was lost."""
        seconds = max(seconds, 0.001)
        tokens = b"%b:w:%b" % (self.keys[-1], self.name)
        words = [b"BLPOP", tokens, b"%.3f" % seconds]
        try:
            reply = ask_server(self.session, words, seconds + SLACK)
        except OSError as error:
            if not _is_away(error):
                raise
            return None
        if type(reply) is ReplyError:
            if reply.code in ("UNBLOCKED", "READONLY"):  # by the look it is decided
                return None
            raise exception_of(reply)
        return None if reply is None else bytes(reply[1])

    def persist(self, bytes function):
        """Call a function that may be called again, also where the server is away for a while."""
        end = time.monotonic() + self.patience
        pause = 0.01
        while True:
            try:
                reply = ask_server(
                    self.session, self.request_for(self.kind + function) + list(self.looks_with),
                    SLACK)
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
                self.session.life.owe(self.request_for(self.kind + b"_withdraw"))
                raise failure
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def settle(self):
        """The session has been taken for dead: say whether the call was served before."""
        return None

    cpdef bint is_void(self) except -1:
        """Whether the session was taken for dead meanwhile: the call is to be made again."""
        return self.id != self.session.id

    def left(self):
        """Return how many seconds of the timeout are left."""
        return None if self.end_at is None else max(0.0, self.end_at - time.monotonic())

    def withdraw(self):
        """Leave the queue, and give back what was granted: the caller has been interrupted."""
        self.session.life.withdraw(self.request_for(self.kind + b"_withdraw"))


def seconds_of(timeout):
    """Return a timeout as a float; TypeError for a str, which `float` would take."""
    return math.copysign(timeout, timeout)


def timeout_of(timeout):
    """Return a timeout as seconds; TypeError or ValueError for one that is no number."""
    if timeout is None:
        return None
    seconds = seconds_of(timeout)
    if seconds != seconds:
        raise ValueError(f"timeout={timeout}: no number of seconds")
    return seconds


def _is_away(error):
    """Whether an error says that the server is away.

    The others are of signals' handlers, or say that the time of the caller's block is over.
    """
    if isinstance(error, CallTimeout):
        return False
    if isinstance(error, TimeoutError):
        return error.errno is not None
    return isinstance(error, (ConnectionError, FileNotFoundError))


def _was_not_made(error):
    """Whether a request has certainly not reached the server."""
    return isinstance(error, (ConnectionRefusedError, FileNotFoundError)) or (
        getattr(error, "applied", None) is False
    )


cpdef object give_back(object session, bytes key, list request, object number, list grant):
    """Give back a lock or permits, also where the server is away for a while.

    Parameters
    ----------
    session : ValkeySession
    key : bytes
    request : list
        What gives back.
    number : int
        How many permits.
    grant : list of int
        Behind the request these make one that may be made again though the server may have served
        the first. If the server stays away it is made when the server is there again. [] where
        there is no such request.
    """
    cdef Grants life = session.life
    cdef object reply, end = None
    cdef list again = None
    cdef double pause = 0.01
    while True:
        try:
            reply = ask_server(session, request, None)
            if type(reply) is not ReplyError or reply.code != "READONLY":
                break
            if end is None:
                end = time.monotonic() + session.patience
            if time.monotonic() > end:
                break
        except BaseException as error:
            if session.retired:
                raise
            if end is None:
                end = time.monotonic() + session.patience
            if again is None:
                again = request + grant
            if not isinstance(error, OSError) or not _is_away(error):
                # Of a signal's handler, which does not know that the lock is held on.
                if grant:
                    session.life.withdraw(again)
                    life.gave(key)
                raise
            if not _was_not_made(error):
                if not grant:
                    raise
                request = again
            if time.monotonic() > end:
                if grant:
                    session.life.owe(again)
                    life.gave(key)
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    if type(reply) is ReplyError:
        raise exception_of(reply)
    life.gave(key, number)
    return None


cdef class SeldomWait(Wait):
    """A call that waits for what nobody's death brings about."""

    def pause(self, position):
        return LOOK_SELDOM


def counted(number):
    """Return a number of permits or parties; `threading` takes a float, too."""
    if number != int(number):
        raise ValueError(f"{number!r}: a whole number is needed")
    return int(number)


# -- methods ------------------------------------------------------------------------


def make(session, bytes key, typeid, *fields):
    session.life.begin()
    session.function(b"make", key, typeid, session.id, *fields)


def shown_at(bytes key):
    """What a representation shows in place of an address."""
    return f"0x{key.rstrip(b'}').rpartition(b'-')[2].decode()}"


def declare(typeid, **functions):
    names = {"create": "#create", "attribute": "__getattribute__", "show": "__str__"}
    table = METHODS.setdefault(typeid, {})
    for name, function in functions.items():
        table[names.get(name, name)] = FunctionMethod(function)
    if "show" in functions:
        table["__repr__"] = table["__str__"]
