# cython: auto_pickle=False
"""How long calls may take: `timeout`, a block of a program, and what ends such a call.

The end of the block is a context variable: so it is the thread's, an asyncio task's, and that of
what such a task hands to ``asyncio.to_thread``.  A process that has never used `timeout` looks at
one word in a call, no more.
"""

from cpython.contextvars cimport get_value

import errno
import math
from contextvars import ContextVar
from time import monotonic

# Seconds that a call may take that gives something back, also where the block's time is over.
GRACE = 2.0
# Seconds from which on a block has no end: 30 years, which fit all clocks that compute with them.
cdef double NEVER = 1e9

# Until when calls must be done, on the monotonic clock (0: any time), and the value outside the
# block; None outside of all blocks.
cdef object block = ContextVar("fastmgr.timeout", default=None)


class CallTimeout(TimeoutError):
    """A call was not done within the time that `timeout` has set.

    Parameters
    ----------
    message : str
        What happened.
    applied : bool, optional
        As the attribute.

    Attributes
    ----------
    applied : bool or None
        False: the server has not run the call, and will not.  None: nobody knows whether the
        server has run it.  What such a call had taken (a lock, a permit, an item) is given back.
    """

    __module__ = "fastmgr"      # where users find it

    def __init__(self, message, applied=None):
        super().__init__(errno.ETIMEDOUT, message)
        self.applied = applied

    def __str__(self):
        return self.strerror

    def __reduce__(self):
        return type(self), (self.strerror, self.applied)


cdef int note_limits() except -1:
    global limits
    limits = True
    return 0


class timeout:
    """Limit the time of the calls in a block, all of them together.

    A call that has not been answered when the time is over raises `CallTimeout`, a `TimeoutError`;
    so does each further call in the block, which is not made.  A call that waits in the server
    (for a lock, an item, an event) waits no longer there, and takes nothing.  Where blocks are
    nested the nearest end counts.  The block is the thread's, or an asyncio task's.

    Parameters
    ----------
    seconds : float or None
        From when the block begins; None, or more than 30 years, for no limit of its own.

    Raises
    ------
    TypeError, ValueError
        It is no number, or not a number of seconds from 0.

    Examples
    --------
    >>> jobs = manager.Queue()
    >>> try:
    ...     with fastmgr.timeout(0.1):
    ...         job = jobs.get()
    ... except fastmgr.CallTimeout:
    ...     print("no job came")
    no job came
    """

    __module__ = "fastmgr"
    __slots__ = ("_seconds",)

    def __init__(self, seconds):
        if seconds is not None:
            if isinstance(seconds, (str, bytes, bytearray)):
                raise TypeError(f"timeout({seconds!r}): a number of seconds is needed")
            try:
                seconds = float(seconds)
            except OverflowError:       # an int with hundreds of digits
                seconds = math.inf if seconds > 0 else -math.inf
            if math.isnan(seconds) or seconds < 0:
                raise ValueError(f"timeout({seconds}): a number of seconds from 0 is needed")
        self._seconds = seconds

    def __enter__(self):
        cdef double end = 0.0, outer = end_of_calls()
        if self._seconds is not None and <double>self._seconds < NEVER:
            note_limits()
            end = <double>monotonic() + <double>self._seconds
        if outer != 0.0 and (end == 0.0 or outer < end):
            end = outer
        block.set((end, block.get()))
        return self

    def __exit__(self, *exc_info):
        leave()

    def __repr__(self):
        return f"fastmgr.timeout({self._seconds})"


class unlimited:
    """A block in which calls may take any time, or until `seconds` from now where that is later.

    For what must not be left undone because the time of its caller is over.
    """

    __slots__ = ("_seconds",)

    def __init__(self, seconds=None):
        self._seconds = seconds

    def __enter__(self):
        cdef double end = end_of_calls()
        if end != 0.0:
            end = (
                0.0 if self._seconds is None
                else max(end, <double>monotonic() + <double>self._seconds)
            )
        block.set((end, block.get()))

    def __exit__(self, *exc_info):
        leave()


cdef int leave() except -1:
    found = block.get()
    if found is not None:       # else the block was entered in another context
        block.set(found[1])
    return 0


cdef double end_of_calls() except -1.0:
    """Until when the calls of this context must be done, on the monotonic clock; 0 for any time."""
    cdef object found
    if not limits:
        return 0.0
    found = get_value(block)
    return 0.0 if found is None else <double>(<tuple>found)[0]


cdef double begin_limited() except -1.0:
    """As `end_of_calls`; raise `CallTimeout` where that is over, before anything is sent."""
    cdef double end = end_of_calls()
    if end != 0.0 and <double>monotonic() >= end:
        raise CallTimeout("the time that fastmgr.timeout has set is over: no call was made", False)
    return end


cdef double seconds_to_dial(double seconds) except -1.0:
    """The seconds that a connection may take which may take `seconds` by itself."""
    cdef double end = begin_limited()
    return seconds if end == 0.0 else min(seconds, max(end - <double>monotonic(), 0.001))


def dial_limit(double seconds):
    """As `seconds_to_dial`, for Python."""
    return seconds_to_dial(seconds)


def limit_is_over():
    """Whether the time that `timeout` has set for the calls of this context is over."""
    cdef double end = end_of_calls()
    return end != 0.0 and <double>monotonic() >= end


def not_dialed(error):
    """The error of a call whose connection could not be made in the time that `timeout` has set."""
    return CallTimeout(
        f"{error} (in the time that fastmgr.timeout has set); no call was made", False)


def unanswered(server, applied):
    """The error of a call that was not answered in the time that `timeout` has set."""
    return CallTimeout(
        f"{server} did not answer in the time that fastmgr.timeout has set; "
        + ("the call was not made" if applied is False
           else "nobody knows whether the call was made: it may have been applied"), applied)
