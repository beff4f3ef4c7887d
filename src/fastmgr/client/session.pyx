# cython: auto_pickle=False
"""What proxies, pipelines and managers know of the way to a server: a `Session`.

A process has one session with each server.  What speaks to the server is a subclass: the fast
dialect (`client.fast`), the stdlib's dialect (`client.stock`), and those that other packages
bring (see docs/engines.md).
"""

cimport cython

from fastmgr.link.stream cimport OP_ERROR, OP_FAILED, OP_PROXY, OP_REFUSED, OP_RETURN
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.arena cimport View
from fastmgr.wire.reader cimport Reader

import threading

from fastmgr.link.cutter import KINDS
from fastmgr.stock.dialect import convert_to_error

FOR_DISPLAY = frozenset(("__repr__", "__str__"))


cdef int note_oneway_calls() except -1:
    global makes_oneway_calls
    makes_oneway_calls = True
    return 0


cdef uint64_t handle_of(object ident) noexcept:
    """The handle that an ident spells; 0, which is no object's, if it spells none."""
    try:
        return int(ident, 16)
    except (OverflowError, TypeError, ValueError):
        return 0


cdef class Target:
    """Which object a call is of: the part of a proxy that a session sees.

    Attributes
    ----------
    _token : Token
        The object's ``typeid``, ``address`` and ``id``.
    _id : str
        The same id.
    """


@cython.final
cdef class Outcome:
    """What a call has come to, where that is no plain result; made by `raised` and `introduced`."""


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Kept:
    """What a call has returned, with the object's version: it may be returned again."""

    cdef object fresh(self):
        """The value for another caller."""
        cdef Reader reader
        if self.data is None:
            return self.value
        reader = Reader()
        reader.feed(self.data, <size_t>len(self.data), None, False)
        return reader.get()


cdef Kept kept_at(uint64_t version, object value, bytes data):
    cdef Kept kept = Kept()
    kept.version, kept.value, kept.data = version, value, data
    return kept


def raised(error):
    """Return the outcome of a call whose method has raised an exception."""
    return outcome_of(OP_ERROR, error, 0)


def introduced(typeid, ident, exposed, reference, proxytype=None):
    """Return the outcome of a call whose result is to be shared: the caller gets a proxy of it.

    Parameters
    ----------
    typeid : str
    ident : str
        What names the object in the session.
    exposed : sequence of str
        The methods that the proxy may call.
    reference : object
        As `Session.acquire` returns it.
    proxytype : str, optional
        ``module:name`` of the proxy's type, where the manager does not know `typeid`.
    """
    cdef Outcome outcome = outcome_of(OP_PROXY, (exposed, typeid, proxytype), 0)
    outcome.ident = ident
    outcome.reference = reference
    return outcome


cdef object undefined(Session session, str method):
    """The error of a session whose class does not define a method that it must have."""
    return NotImplementedError(
        f"{type(session).__name__} does not define {method}(): every session of an engine must")


cdef class Session:
    """What this process and one server have with each other.

    To bring another kind of server, subclass it and define `create`, `call`, `acquire` and
    `control`; the other methods have a meaning that is right for a server that needs none of
    them.  Every method may be called by any thread.

    Parameters
    ----------
    address : address
        The server's.
    serializer : str
    authkey : bytes

    Attributes
    ----------
    retired : bool
        The server is known to be gone; the next proxy begins a new session.
    """

    def __cinit__(self, *args, **kwds):
        self.local = threading.local()

    def __init__(self, address, serializer, authkey):
        self.address = address
        self.serializer = serializer
        self.authkey = authkey

    # -- objects ----------------------------------------------------------

    def create(self, typeid, args, kwds, bint anonymous=False):
        """Have an object made.

        Parameters
        ----------
        typeid : str
            What the type was registered as.
        args : sequence
        kwds : dict or None
        anonymous : bool
            The reference is nobody's: a ``decref`` has to return it, as in the stdlib.

        Returns
        -------
        ident : str
        exposed : sequence of str
            The methods that proxies may call.
        reference : object
            As `acquire` returns it; None for an anonymous one.
        """
        raise undefined(self, "create")

    def acquire(self, Target target):
        """Take a reference to an object, for one proxy.

        Returns
        -------
        object
            The reference: when it is dropped the session returns it to the server.

        Raises
        ------
        RemoteError
            The object is gone.
        """
        raise undefined(self, "acquire")

    cdef bint regain(self, Target target) except -1:
        """Count a proxy's reference which the server has not, though the proxy has it; if one is.

        A server that was restarted did not have the object: somebody has made it anew since.
        RemoteError where the object is still gone.
        """
        return False

    def held(self):
        """Return the idents of the objects that this process has references to."""
        return []

    # -- calls ------------------------------------------------------------

    cpdef object call(self, Target target, object name, object args, object kwds):
        """Call a method of an object.

        Parameters
        ----------
        target : Target
            The object's proxy, whose ``_token`` has the type's id and the object's.
        name : str
        args : sequence
        kwds : mapping or None

        Returns
        -------
        object
            What the method returned, or an outcome: `raised` with what it raised, `introduced`
            for an object that is to be shared in its turn.

        Raises
        ------
        Exception
            The call could not be made, or nobody knows whether it was.
        """
        raise undefined(self, "call")

    cdef object call_keeping(self, Target target, object name, object args):
        """Make a call; if what it returns may be kept the result is a `Kept`."""
        return self.call(target, name, args, None)

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        """Make a call; if one-way calls of the thread have failed before, the outcome says so.

        A call that takes something is not made then, for it could not hand over what it took.
        """
        failure = getattr(self.local, "failure", None)
        if failure is None or name in FOR_DISPLAY:
            return self.call(target, name, args, kwds)
        outcome = outcome_of(OP_REFUSED, None, 0) if takes else self.call(target, name, args, kwds)
        self.local.failure = None
        return failed_before(failure[0], failure[1], outcome)

    def post(self, Target target, name, args, kwds):
        """Make a call whose result nobody waits for; a failure shows with the thread's next call.

        The server of this one replies all the same.
        """
        note_oneway_calls()
        self.keep_failure(target, name, self.call(target, name, args, kwds))

    cdef int keep_failure(self, Target target, object name, object outcome) except -1:
        """Keep what a one-way call has raised for the thread's next call."""
        if type(outcome) is not Outcome or (<Outcome>outcome).op in (OP_RETURN, OP_PROXY):
            return 0
        failed, first = getattr(self.local, "failure", None) or (0, None)
        if first is None:
            call = f"{target._token.typeid}.{name}() of object {target._id}"
            first = call, ((<Outcome>outcome).op, (<Outcome>outcome).payload)
        self.local.failure = failed + 1, first
        return 0

    def pipeline(self, list calls):
        """Make many calls together.

        Parameters
        ----------
        calls : list
            Of each call the proxy, the name, the arguments and the keywords (or None), one
            after the other.

        Returns
        -------
        list
            What `call` returns, for each.
        list of int
            Which of these are outcomes.

        Raises
        ------
        OSError, EOFError
            The connection failed; how many calls were served is unknown.
        """
        cdef Py_ssize_t i
        cdef list results = []
        try:
            for i in range(0, len(calls), 4):
                results.append(self.call_after_posts(
                    calls[i], calls[i + 1], calls[i + 2], calls[i + 3], False))
        except (OSError, EOFError) as error:
            if results and getattr(error, "applied", None) is False:
                error.applied = None        # of the pipeline: calls before this one were made
            raise
        return results, [i for i in range(len(results)) if type(results[i]) is Outcome]

    def control(self, name, args=(), kwds=None):
        """Call one of the server's public functions, and return what it returns.

        Managers ask for ``number_of_objects``, ``debug_info``, ``kept_names``, ``forget_name``;
        an `AutoProxy` asks ``get_methods`` which methods a token's object has.
        """
        raise undefined(self, "control")

    # -- connections ------------------------------------------------------

    def connect(self):
        """Make sure that the server is there: give the calling thread a fresh connection."""

    def hurry(self, double seconds):
        """Let no answer to the calling thread take longer from now on; False where that cannot be.
        """
        return False

    def lost_connection(self):
        """Return over what the calling thread's last request went that failed for its connection.

        Its ``interrupted`` is whether the request had been sent.
        """
        return getattr(self.local, "lost", None)

    cpdef bint is_lost(self, error) except -1:
        """Whether an error says that the server cannot be reached."""
        return isinstance(error, (OSError, EOFError))

    def stock_connection(self):
        """Return the thread's connection in the stdlib's dialect; None where it has none."""

    def forget_connection(self):
        """Let the calling thread's next call make a connection; AttributeError if it has none."""
        raise AttributeError("connection")

    def close(self):
        """Return everything in order; a later call would begin anew."""

    def retire(self):
        """The server has been shut down: there is nobody to return references to."""
        self.retired = True

    # -- shared memory ----------------------------------------------------

    cpdef object locate(self, Target target):
        """Ask where an object's cell is; its kind, segment, offset, size, and what else is known.

        None where this process cannot have it: its calls are made, then.
        """
        return None

    cdef Segment segment(self, View view, object number):
        """A segment of the server's memory, mapped now if it was not; None if that cannot be."""
        return None

    cdef bint has_posted(self) except -1:
        """Whether the calling thread has made one-way calls that may not have been served."""
        return False

    cdef void took(self) noexcept:
        """This process has taken a lock or permit."""

    cdef void gave(self, Py_ssize_t count) noexcept:
        """Locks or permits were given back; who took them may have been another process."""

    cdef uint64_t thread_number(self) except 0:
        """The calling thread's number as the owner of a lock in shared memory."""
        return 1


cdef Outcome outcome_of(uint8_t op, object payload, uint64_t handle):
    """The outcome that a reply spells, which may introduce the object that has `handle`."""
    cdef Outcome outcome = Outcome()
    outcome.op = op
    outcome.payload = payload
    if handle:
        outcome.ident = "%x" % handle
    return outcome


cdef object error_of(Outcome outcome):
    """The exception that an outcome stands for."""
    return convert_to_error(KINDS[outcome.op], outcome.payload)


cdef Outcome failed_before(Py_ssize_t failed, tuple failure, object result):
    """The outcome of a call that came to `result`, before which `failed` one-way calls failed.

    `failure` is the first: which call, and the operation and payload of the reply to it.
    """
    cdef Outcome outcome = outcome_of(OP_FAILED, (failed, *failure), 0)
    outcome.result = result
    return outcome
