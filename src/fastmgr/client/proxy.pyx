# cython: auto_pickle=False
"""What a proxy does with a call: the session makes it, the proxy takes or raises the outcome.

Other proxies work on shared memory themselves.  Such a proxy asks the server once where its
object's cell is (`Session.locate`).  From then on a call is one atomic step on that cell, made
here, as long as the server lives and the process is in the session that holds the reference.
Whatever that does not cover goes the way of every call, `_callmethod`, and meets the same cell in
the server.

Users' code may run where an argument is converted to a number or compared with a name, in a
finalizer, a signal's handler, a trace function.  It may close the proxy, fork, end the manager.  So
a method converts its arguments first, then asks `at_hand`, and from there to the step calls nothing
that could run users' code, and allocates nothing that the garbage collector tracks.
"""

cimport cython

from fastmgr.client.reads cimport Reads, is_key, key_of_call
from fastmgr.client.session cimport (
    Kept, Outcome, Session, Target, error_of, handle_of, makes_oneway_calls, outcome_of,
    posting_channels,
)
from fastmgr.link.stream cimport OP_FAILED, OP_PROXY, OP_REFUSED, OP_RETURN, OP_TRACEBACK
from fastmgr.memory.arena cimport KIND_VERSION, View
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.versions cimport VERSIONS

from traceback import format_exception_only

cdef extern from "Python.h":
    object PyObject_GenericGetAttr(object obj, object name)

from fastmgr.kinds.rows import BY_TYPEID, GAINS, NAMED
from fastmgr.stock.dialect import FORGOTTEN, RESTARTED, RemoteError, ServerRestarted


cdef enum:
    KEEP_AFTER = 16             # calls of a proxy, after which it keeps what it reads
    ROUND_OF_REST = 64          # calls without keeping, where it has not paid; twice as many, ...
    MOST_REST = 1 << 14
    MOST_REST_OF_WRITER = 1 << 10   # where a call that changes the object has ended it
    NEVER = 1 << 30

cdef object MISSING = object()


class OnewayError(Exception):
    """A call made with `oneway` has failed; the error is its ``__cause__``.

    Raised by the same thread's next call, which was made all the same unless it is one that
    takes something: ``acquire``, ``get`` of a queue, ``pop``, ... (see `ProxyCore._gains`).

    Parameters
    ----------
    failed, result, call, reason, made
        The attributes.

    Attributes
    ----------
    failed : int
        How many such calls have failed since the last that was not one-way; the cause is the
        first one's.
    result : object
        What the call that raises this returned, or the exception that it raised.
    call : str
        The call that failed first: the referent's type, the method, the object's ident.
    reason : str
        The error of that call, in a line.
    made : bool
        Whether the call that raises this was made. One that was not has changed nothing and can be
        made again.

    Examples
    --------
    >>> names = manager.list()
    >>> fastmgr.oneway(names).remove("spam")
    >>> try:
    ...     names.append("eggs")
    ... except fastmgr.OnewayError as error:
    ...     type(error.__cause__), error.made
    (<class 'ValueError'>, True)
    """

    __module__ = "fastmgr"      # where users find it

    def __init__(self, failed, result, call="", reason="", made=True):
        message = f"the one-way call {call} failed: {reason}" if call else "a one-way call failed"
        if failed > 1:
            message += f" (and {failed - 1:,} more after it)"
        if not made:
            message += "; the call that tells it was not made: make it again"
        super().__init__(message)
        self.failed = failed
        self.result = result
        self.call = call
        self.reason = reason
        self.made = made

    def __reduce__(self):
        return type(self), (self.failed, self.result, self.call, self.reason, self.made)


cdef str in_a_line(error):
    """What was raised, as a traceback's last line has it."""
    if type(error) is RemoteError:
        lines = str(error.args[0]).split("\n")
    else:
        lines = format_exception_only(type(error), error)
    line = next((line for line in map(str.strip, reversed(lines)) if line), "")
    return line if len(line) <= 500 else line[:500] + "..."


cdef bint is_gone(text) except -1:
    """Whether a server says that it has no such object, though another one had, or itself."""
    return RESTARTED in str(text) or FORGOTTEN in str(text)


cdef object restarted(Target target, bint forgotten):
    """The error of a call whose object went with the server that had it, or with its name."""
    cdef str server = f"the server at {target._token.address!r}"
    cdef str typeid = target._token.typeid
    if not target._handle & NAMED:
        return ServerRestarted(
            f"{server} was restarted, and has no longer the {typeid} of this proxy: make it anew. "
            "The call was not made. A Counter, Counters, Value or Array that has a name (name=...) "
            "is found again where the server keeps such objects in a file (arena=...)")
    gone = f"and has no {typeid} of this proxy's name"
    if forgotten:
        gone = f"or the name was forgotten: it has no {typeid} of that name any more"
    return ServerRestarted(
        f"{server} was restarted, {gone}: make it anew with the same name (manager.{typeid}(..., "
        "name=...)), and this proxy finds it. The call was not made. A server that keeps such "
        "objects in a file (arena=...) has them again after a restart")


cdef class ProxyCore(Target):
    """The compiled part of `BaseProxy`: what a call needs."""

    # Calls that take something, which is lost where they raise: they are not made where they
    # would have to tell that one-way calls have failed.
    _gains = GAINS
    # Whether what `put_many` is given are values that share nothing with each other.
    _apart = False
    # A proxy, or its type, that sets this to False makes every call.
    _keeps = True

    def _callmethod(self, methodname, args=(), kwds={}):  # no-cython-lint: the stdlib's signature
        """Call a method of the referent and return a copy of the result.

        Parameters
        ----------
        methodname : str
        args : tuple
        kwds : dict

        Raises
        ------
        RemoteError
            The server could not serve the call: the method is not exposed, the
            object is gone, or the result cannot be pickled.
        Exception
            Whatever the method raised.
        """
        cdef Session session = self._session()
        self.calls += 1
        if self.calls > KEEP_AFTER:
            result = self.read(session, methodname, args, kwds)
            if result is not MISSING:
                return self._settle(result) if type(result) is Outcome else result
        if makes_oneway_calls:
            result = session.call_after_posts(
                self, methodname, args, kwds, methodname in self._gains)
        else:
            result = session.call(self, methodname, args, kwds)
        if type(result) is Outcome:
            if (<Outcome>result).op == OP_TRACEBACK and self.is_there_again(result):
                return ProxyCore._callmethod(self, methodname, args, kwds)
            return self._settle(result)
        return result

    cdef bint is_there_again(self, Outcome outcome) except -1:
        """Whether a call was not made, for nobody held the object of this name, which is there.

        It is held from now on.
        """
        if self._ref is None or not self._handle & NAMED or not is_gone(outcome.payload):
            return False
        try:
            return self._session().regain(self)
        except RemoteError:
            return False

    cdef object read(self, Session session, object name, object args, object kwds):
        """Return what was kept of a call, or make it and keep what it returns.

        MISSING says that it is a call like any other.
        """
        cdef Reads reads = self.reads
        cdef dict table
        cdef Kept kept
        if reads is None or not reads.view.usable:      # a fork, say, has ended the view
            reads = self.begin_reads(session, name)
            if reads is None:
                return MISSING
        table = reads.tables.get(name)
        if table is None:
            return MISSING
        key = key_of_call(args, kwds)
        if key is False:
            return MISSING
        kept = reads.find(table, key)
        if kept is not None:
            return kept.fresh()
        if not reads.may_look():
            return MISSING
        if not reads.pays():
            self.pause(MOST_REST)
            return MISSING
        if reads.asked == 0:        # a round has paid
            self.rest = 0
        result = session.call_keeping(self, name, args)
        if type(result) is not Kept:
            return result
        value = (<Kept>result).value
        reads.keep(table, key, <Kept>result)
        return value

    cdef Reads begin_reads(self, Session session, object name):
        """Ask the server where the object's version is; None where nothing is to be kept."""
        cdef Segment segment
        cdef View view
        cdef int rest
        self.reads = None
        self.calls = -NEVER
        row = BY_TYPEID.get(self._token.typeid)
        if not self._keeps or type(self)._callmethod is not ProxyCore._callmethod or (
            row is not None and row.readers is None
        ):
            return None     # a user's proxy type wants every call, or no reply can be kept
        if posting_channels and session.has_posted():
            self.calls = KEEP_AFTER
            return None
        if row is not None and name not in row.readers:
            self.pause(MOST_REST_OF_WRITER)
            return None
        rest = self.rest
        self.pause(MOST_REST)       # a call may be under way that changes the object
        found = session.locate(self)
        if found is None:
            return None
        kind, segment, offset, _size, readers = found
        view = session.view
        # Users' code may have run since: another server may have another word at that place.
        if kind != KIND_VERSION or view.segment(VERSIONS) is not segment:
            return None
        self.reads = Reads(session, view, segment, offset, readers)
        self.calls, self.rest = KEEP_AFTER, rest
        return self.reads

    cdef void pause(self, int most) noexcept:
        """Keep nothing for some calls, each time for more; then see again."""
        self.reads = None
        self.rest = max(self.rest, min(2 * self.rest + ROUND_OF_REST, most))
        self.calls = -self.rest

    def _getvalue(self):
        """Return a copy of the referent."""
        return self._callmethod("#GETVALUE")

    def _settle(self, Outcome outcome):
        """Turn what a call came to into its result or a proxy, or raise what it stands for."""
        if outcome.op == OP_RETURN:
            return outcome.payload
        if outcome.op == OP_FAILED:
            failed, call, (kind, error) = outcome.payload
            result = outcome.result
            made = type(result) is not Outcome or (<Outcome>result).op != OP_REFUSED
            if type(result) is Outcome:
                try:
                    result = self._settle(result) if made else None
                except Exception as raised:
                    result = raised
            error = error_of(outcome_of(kind, error, 0))
            raise OnewayError(failed, result, call, in_a_line(error), made) from error
        if outcome.op == OP_PROXY:
            exposed, typeid, proxytype = outcome.payload
            return self._build_proxy(typeid, outcome.ident, exposed, proxytype)
        try:
            raise self.error_in_words(error_of(outcome))
        finally:
            outcome = None      # the exception's traceback leads back to this frame

    cdef object error_in_words(self, error):
        """The error of a call; where the object's server has ended it says that, and what to do."""
        if type(error) is RemoteError and is_gone(error.args[0]):
            return restarted(self, FORGOTTEN in str(error.args[0]))
        return error

    cdef Session _session(self):
        if self._session_ is None:
            self._session_ = self._open_session()
        return self._session_

    def _session_of(self):
        """The session that the proxy's calls go by."""
        return self._session()

    def _set_token(self, token):
        self._token = token
        self._id = token.id
        self._handle = handle_of(token.id)

    def _take_reference(self):
        """Hold a reference in the server from now on; once is enough."""
        if self._ref is None:
            try:
                self._ref = self._session().acquire(self)
            except RemoteError as error:
                raised = self.error_in_words(error)
                if raised is error:
                    raise
                raise raised from None

    def _close(self):
        """Give the reference back before the proxy is dropped; twice does nothing."""
        self._ref = None

    def _connect(self):
        """Give the calling thread a fresh connection to the server."""
        self._session().connect()


cdef class CellCore(ProxyCore):
    """What a proxy knows of its object's cell."""

    _has_cell = True

    cdef bint find(self) except -1:
        """Ask the server for the cell, once in a session.  Users' code may run meanwhile."""
        cdef Session session
        cdef View view
        cdef Segment segment
        if not self._has_cell or type(self)._callmethod is not ProxyCore._callmethod:
            return False    # a user's proxy type wants every call
        if self._ref is None:
            if not self._awaits_reference:
                return False    # without a reference the server may reuse the cell
            self._awaits_reference = False
            self._take_reference()
        session = self._session()
        if posting_channels and session.has_posted():
            return False    # the calls of a thread are served in order
        view = session.view
        if view is not None:
            if view.none or (view.alive is not NULL and view.usable and not view.serves()):
                return False    # the call will find out how the server ended
            if view is self.view and view.usable:
                return self.cell is not NULL
        self.cell = NULL
        self.segment = None
        self.growths = 0 if view is None else view.growths()
        found = session.locate(self)
        view = session.view
        if found is not None:
            kind, segment, offset, size, about = found
            if not self.accepts(kind, size, about):
                found = None
        if self._ref is None:
            return False    # the proxy was closed meanwhile
        self.view = view
        if found is None:
            return False
        self.kind = kind
        self.size = size
        self.segment = segment
        self.cell = segment.at + <size_t>offset
        return True

    cdef bint is_there_again(self, Outcome outcome) except -1:
        if not ProxyCore.is_there_again(self, outcome):
            return False
        self.view = None        # `find` asks for its cell
        return True

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        """Whether this is the kind of cell the proxy can work on."""
        return False

    def _seen(self):
        """A text that shows what the cell holds; None where that takes a call of the server."""
        if posting_channels and self._session().has_posted():
            return None
        return self.spelled() if self.ready() else None

    cdef object spelled(self):
        """A text for `_seen`, of the cell at hand; None where the server has the value."""
        return None

    def _close(self):
        self.cell = NULL
        self.view = None
        self.segment = None
        self._awaits_reference = False
        ProxyCore._close(self)


cdef class ContainerCore(ProxyCore):
    """What containers have that hold items."""

    def __contains__(self, key):
        cdef Reads reads = self.reads
        cdef Kept kept
        if reads is not None and is_key(key):
            kept = reads.find(reads.members, key)
            if kept is not None:
                return <bint>kept.value
        return <bint>self._callmethod("__contains__", (key,))    # of a user's object: any value

    def __len__(self):
        cdef Reads reads = self.reads
        cdef Kept kept
        if reads is not None:
            kept = reads.find(reads.lengths, None)
            if kept is not None:
                return kept.value
        return self._callmethod("__len__")


cdef class ItemsCore(ContainerCore):
    """What dicts and lists have."""

    def __getitem__(self, key):
        cdef Reads reads = self.reads
        cdef Kept kept
        if reads is not None and is_key(key):
            kept = reads.find(reads.items, key)
            if kept is not None:
                return kept.value if kept.data is None else kept.fresh()
        return self._callmethod("__getitem__", (key,))


cdef class DictCore(ItemsCore):
    """The compiled part of `DictProxy`."""

    def get(self, /, *args, **kwds):
        """Return the value for key if key is in the dictionary, else default."""
        cdef Reads reads = self.reads
        cdef Kept kept
        if reads is not None and not kwds and len(args) == 1 and is_key(args[0]):
            kept = reads.find(reads.gets, args[0])
            if kept is not None:
                return kept.value if kept.data is None else kept.fresh()
        return self._callmethod("get", args, kwds)


cdef class NamespaceCore(ProxyCore):
    """The compiled part of `NamespaceProxy`."""

    def __getattribute__(self, key):
        # To find out that the proxy has no attribute of that name takes longer than the rest.
        cdef Reads reads = self.reads
        cdef Kept kept
        if reads is not None and type(key) is str:
            kept = reads.find(reads.attributes, key)
            if kept is not None:
                return kept.value if kept.data is None else kept.fresh()
        return PyObject_GenericGetAttr(self, key)

    def __getattr__(self, key):
        cdef Reads reads
        if (<str?>key).startswith("_"):
            return PyObject_GenericGetAttr(self, key)
        value = self._callmethod("__getattribute__", (key,))
        reads = self.reads
        if reads is not None and type(key) is str:
            reads.note_attribute(key)
        return value


@cython.final
cdef class Recording:
    """A method of a proxy whose calls are noted in a list: proxy, name, arguments, keywords."""

    cdef list calls
    cdef object proxy, name

    def __init__(self, list calls, proxy, name):
        self.calls = calls
        self.proxy = proxy
        self.name = name

    def __call__(self, *args, **kwds):
        self.calls += (self.proxy, self.name, args, kwds or None)


@cython.final
cdef class Posting:
    """A method of a proxy whose calls wait for nothing."""

    cdef ProxyCore proxy
    cdef object name

    def __init__(self, ProxyCore proxy not None, name):
        self.proxy = proxy
        self.name = name

    def __call__(self, *args, **kwds):
        self.proxy._session().post(self.proxy, self.name, args, kwds)
