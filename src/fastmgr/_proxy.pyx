# cython: auto_pickle=False
"""The client's half: sessions, channels and the call path of a proxy.

A process has one `ClientSession` with each server it holds proxies of.  Each
thread that calls has a channel of its own in it; the session counts what the
process holds, so that the server need hear only of an object's first proxy and
of its last.

Finalizers run at any moment and in any thread, also inside a call.  So releases
queue, and travel with the next request, or at once over a channel whose lock is
free.  `ClientSession`'s books are changed only in steps that allocate nothing
the garbage collector tracks, and so cannot be interrupted by a finalizer.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
    PyThread_get_thread_ident, PyThread_release_lock,
)
from libc.errno cimport EAGAIN, EINTR
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

from fastmgr._arena cimport THREAD_BITS, Segment, View
from fastmgr._frame cimport (
    FLAG_ANONYMOUS, FLAG_CARRIED, FLAG_FOLLOWS, FLAG_ONEWAY, FLAG_PICKLED, FLAG_SEGMENTS,
    FRAME_EOF, FRAME_PARTIAL, FRAME_READY, HEADER_SIZE, MAILBOX, OP_ATTACH, OP_CALL, OP_CONTROL,
    OP_CREATE, OP_ERROR, OP_FAILED, OP_GOODBYE, OP_INCREF, OP_LOCATE, OP_PROXY, OP_RELEASE,
    OP_RETURN, OP_TRACEBACK, OP_UNSERIALIZABLE, Header, Stream, table_size, write_table,
)
from fastmgr._os cimport (
    MSG_DONTWAIT, POLLIN, POLLOUT, fm_poll_one, fm_send, uint8_t, uint16_t, uint32_t, uint64_t,
)
from fastmgr._wire cimport Reader, Writer, is_scalar

import errno
import os
import threading
import weakref
from multiprocessing import AuthenticationError, process, util

from fastmgr._arena import map_segment
from fastmgr.dialects.intro import SESSION_ID_SIZE, introduction
from fastmgr.dialects.stock import (
    SERIALIZERS, RemoteError, convert_to_error, dispatch, stock_client, uses_raw_sockets,
)
from fastmgr.dialects.transport import connect
from fastmgr.methods import METHODS

cdef dict KINDS = {
    <int>OP_RETURN: "#RETURN", <int>OP_ERROR: "#ERROR", <int>OP_TRACEBACK: "#TRACEBACK",
    <int>OP_PROXY: "#PROXY", <int>OP_UNSERIALIZABLE: "#UNSERIALIZABLE",
}
cdef dict OPS = {kind: op for op, kind in KINDS.items()}
cdef dict METHOD_NUMBERS = {name: number for number, name in enumerate(METHODS, 1)}


# Keys by the address that they have opened: a proxy that comes without its key (nested in a
# container, or from a queue) finds it here.
authkeys = {}


# By what `Writer.put_args` says of a request's values.
cdef uint8_t[4] PICKLED_FLAGS = [0, FLAG_PICKLED | FLAG_CARRIED, FLAG_PICKLED, FLAG_PICKLED]

# Seconds that the end of a process waits for one-way calls to be served.
cdef double LAST_WAIT = 5.0

# How many channels of this process have sent calls since the last reply for which none comes.
cdef int posting_channels = 0

cdef enum:
    PORTION = 32 * 1024     # bytes that a pipeline sends before it looks for replies
    MAIL_AFTER = 64         # calls, after which a channel has a mailbox


@cython.final
cdef class _Pickled:
    """A reply that only pickle can read, to be read once its connection is free."""

    cdef bytes data
    cdef list segments

    def __init__(self, Stream stream):
        self.data = stream.body[:stream.size]
        self.segments = stream.segments

    cdef object load(self):
        cdef Reader reader = Reader()
        reader.feed(self.data, <size_t>len(self.data), self.segments, True)
        return reader.get()


cdef bint all_scalars(kwds) except -1:
    for value in kwds.values():
        if not is_scalar(value):
            return False
    return type(kwds) is dict


cdef int seal(Writer writer, size_t start, Header *header) except -1:
    """Put `header` before the body that began at `start`, and in it what the body needs."""
    cdef size_t beside = 0
    if writer.segments:
        header.flags |= FLAG_SEGMENTS
        beside = writer.size - start
        beside = write_table(
            writer.insert(start, table_size(writer.segments)), beside, writer.segments,
            writer.writable,
        )
    header.size = writer.size - start + beside
    memcpy(writer.data + start - HEADER_SIZE, header, HEADER_SIZE)
    return 0


class OnewayError(Exception):
    """A call made with `oneway` has failed; the error is its ``__cause__``.

    Raised by the same thread's next call, which was served all the same.

    Attributes
    ----------
    failed : int
        How many such calls have failed since the last that was not one-way; the cause is the
        first one's.
    result : object
        What the call that raises this returned, or the exception that it raised.
    """

    def __init__(self, failed, result):
        calls = "a one-way call" if failed == 1 else f"{failed} one-way calls"
        super().__init__(f"{calls} made before this one failed")
        self.failed = failed
        self.result = result

    def __reduce__(self):
        return type(self), (self.failed, self.result)


class _StaleConnection(Exception):
    """The server had closed the connection before the request could be sent whole."""


cdef object stale():
    return _StaleConnection(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))


@cython.final
@cython.no_gc
cdef class Holding:
    """What this process holds of one object."""


@cython.final
@cython.no_gc
cdef class Ref:
    """One proxy's reference; dropping it is releasing it.

    It takes no part in cycles (what it points to never points back), so it is
    dropped exactly once, whatever the collector does to the proxy.
    """

    def __dealloc__(self):
        cdef Holding holding = self.holding
        if holding is None:
            return
        holding.local -= 1
        if holding.local == 0 and holding.unclaimed == 0:
            self.session.forget(self.ident, holding)


cdef class Channel:
    """How one thread reaches one server.

    The session knows nothing more of the way to a server than this: another
    engine is another subclass.
    """

    def __cinit__(self, *args, **kwds):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError("no memory for a lock")
        self.usable = True

    def __dealloc__(self):
        if self.lock is not NULL:
            PyThread_free_lock(self.lock)

    cdef void renew_lock(self) noexcept:
        """In a forked child: the lock may have been held by a thread that is not here.

        It is left to leak, for freeing a held lock is undefined.
        """
        self.lock = PyThread_allocate_lock()
        self.holder = 0

    cdef void hold(self) noexcept:
        """Take the lock, without the GIL if it must be waited for."""
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.holder = PyThread_get_thread_ident()

    cdef bint hold_now(self) noexcept:
        """Take the lock if it is free."""
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            return False
        self.holder = PyThread_get_thread_ident()
        return True

    cdef void let_go(self) noexcept:
        self.holder = 0
        PyThread_release_lock(self.lock)

    cdef tuple with_failure(self, tuple reply):
        """`reply` as `ProxyCore._settle` takes it where one-way calls before it failed."""
        failure, self.failure = self.failure, None
        failed, self.failed = self.failed, 0
        if isinstance(failure, _Pickled):
            try:
                failure = (<_Pickled>failure).load()
            except Exception as error:
                failure = <int>OP_ERROR, error
        return <int>OP_FAILED, (failed, failure, reply)

    cpdef tuple call(self, object ident, object name, object args, object kwds):
        """Call a method; return the reply's operation and payload.

        The payload of OP_PROXY is (ident, (exposed, typeid, proxy type's name or None)).
        """
        raise NotImplementedError

    cpdef object close(self):
        """Close the connection in order."""
        raise NotImplementedError

    cpdef object abandon(self):
        """Close this process's copy of the connection: it is another's."""
        raise NotImplementedError


@cython.final
@cython.no_gc
cdef class FastChannel(Channel):
    """A connection that speaks the fast dialect."""

    def __init__(self, Stream stream):
        self.stream = stream
        self.pid = getpid()
        self.writer = Writer()
        self.reader = Reader()

    def __dealloc__(self):
        self.set_posted(False)
        self.say_goodbye(False)

    cpdef object close(self):
        self.usable = False
        self.say_goodbye(False)
        self.stream.close_fd()

    cpdef object abandon(self):
        self.usable = False
        self.stream.close_fd()

    cdef void say_goodbye(self, bint whole) noexcept:
        """Tell the server that this is no crash: of the connection, or of the process.

        Behind a request that was sent in part it says nothing, and does no harm.
        In a forked child other threads' channels are dropped before any of our
        hooks runs.
        """
        cdef Header header
        if self.stream is not None and self.stream.fd >= 0 and self.pid == getpid():
            memset(&header, 0, HEADER_SIZE)
            header.op = OP_GOODBYE
            header.handle = whole
            fm_send(self.stream.fd, &header, HEADER_SIZE, MSG_DONTWAIT)

    cdef bint wants_mailbox(self) noexcept:
        """Whether it is used often enough for a mailbox to pay, and has not asked for one."""
        return self.calls > MAIL_AFTER and not self.asked and not self.posted

    cdef tuple request(
        self, uint8_t op, uint8_t flags, uint64_t handle, object name, object args, object kwds,
        list due
    ):
        """Encode a request, send it behind the releases that are due, and take the reply."""
        cdef size_t start
        cdef Header *header
        cdef bint owner = not self.encoding
        # Pickling an argument may call another proxy, over this very channel.
        cdef Writer writer = self.writer if owner else Writer()
        self.encoding = True
        try:
            start = self.begin(writer, due)
            if op == OP_LOCATE:
                self.finish(writer, start, op, flags, 0, handle)
            elif op == OP_INCREF:
                for item in args:
                    handle = item
                    writer.write(&handle, sizeof(handle))
                self.finish(writer, start, op, flags, 0, 0)
            else:
                writer.segmented = True
                self.put_call(writer, start, op, flags, handle, name, args, kwds)
            if flags & FLAG_ONEWAY:
                header = <Header *>(writer.data + start - HEADER_SIZE)
                if header.flags & FLAG_PICKLED and not header.flags & FLAG_CARRIED:
                    # There may be proxies in it: theirs are references that the server must not
                    # lose, by way of another thread's connection, before it has served the call.
                    self.lend(object(), (args, kwds))
                self.post(writer)
                return None
            return self.exchange(writer)
        finally:
            writer.segments = writer.writable = None
            if owner:
                self.encoding = False

    cdef size_t begin(self, Writer writer, list due) except 0:
        """Put the releases that are due, then room for a header; where its body starts."""
        cdef uint64_t pair[2]
        writer.reset()
        writer.grow(HEADER_SIZE)
        writer.size = HEADER_SIZE
        if due:
            for handle, count in due:
                pair[0] = handle
                pair[1] = count
                writer.write(pair, sizeof(pair))
            self.finish(writer, HEADER_SIZE, OP_RELEASE, 0, 0, 0)
            writer.grow(HEADER_SIZE)
            writer.size += HEADER_SIZE
        return writer.size

    cdef int put_call(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint64_t handle,
        object name, object args, object kwds
    ) except -1:
        """Encode a call, for which there is room for a header before `start`."""
        cdef object number = METHOD_NUMBERS.get(name) if op == OP_CALL else None
        cdef int pickled
        if number is None:
            writer.put(name)
        if type(args) is not tuple:
            args = tuple(args)
        if not kwds:
            pickled = writer.put_args(args)
            writer.put(None)
        elif all_scalars(kwds):
            pickled = writer.put_args(args)
            if writer.put(kwds):
                pickled = 2     # a string that is no UTF-8
        else:
            # Together: they may share objects. True says so.
            pickled = 2 * writer.put((args, kwds))
            writer.put(True)
        return self.finish(
            writer, start, op, flags | PICKLED_FLAGS[pickled],
            0 if number is None else <uint16_t>number, handle,
        )

    cdef int finish(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint16_t method,
        uint64_t handle
    ) except -1:
        """Fill in the header before `start` for the body that begins there."""
        cdef Header header
        self.calls += 1
        header.handle = handle
        header.call = self.calls
        header.method = method
        header.op = op
        header.flags = flags
        return seal(writer, start, &header)

    cdef tuple exchange(self, Writer writer):
        """Send what `writer` holds, and take the reply to its last frame."""
        cdef Stream stream = self.stream
        cdef uint32_t expected = self.calls
        cdef uint8_t op
        cdef uint64_t handle
        self.hold()
        try:
            if not self.usable:
                raise stale()
            mailed = not self.ahead and not writer.segments and stream.mail(
                writer.data, writer.size)
            try:
                if not mailed:
                    stream.send_all(writer.data, writer.size, writer.segments or None)
            except OSError as error:
                raise _StaleConnection(error) from None
            try:
                self.receive(expected)
            except (OSError, EOFError):
                if mailed and stream.has_mail():
                    raise stale() from None
                raise
            op = stream.header.op
            handle = stream.header.handle
            payload = self.payload()
            stream.tidy()
        except (OSError, EOFError, _StaleConnection):
            self.usable = False
            raise
        except BaseException:
            # Between request and reply: out of step, never to be used again.
            self.usable = False
            self.interrupted = True
            raise
        finally:
            self.let_go()
        if type(payload) is _Pickled:
            payload = (<_Pickled>payload).load()
        if handle:
            return op, ("%x" % handle, payload)
        return op, payload

    cdef object payload(self):
        """What the last frame carries, or a `_Pickled` of it.

        Unpickling may call over this channel and overwrite the stream's buffer.
        """
        cdef Stream stream = self.stream
        if stream.header.flags & FLAG_PICKLED:
            return _Pickled(stream)
        self.reader.feed(stream.body, stream.size, stream.segments, False)
        value = self.reader.get()
        self.reader.segments = None
        return value

    cdef int receive(self, uint32_t expected) except -1:
        """Wait for the reply to a call; what is said before of failures is kept."""
        while not self.check(
            self.stream.receive(True, &self.spinner, self.may_spin), expected
        ):
            pass
        return 0

    cdef bint check(self, int status, uint32_t expected) except -1:
        """Whether the frame just received is the reply to a call, not what is said before it."""
        cdef Header *header = &self.stream.header
        if status == FRAME_EOF:
            raise EOFError
        if status != FRAME_READY or header.call != expected:
            raise OSError("bad message from the server")
        if header.op == OP_FAILED:
            if self.failed == 0:
                self.failure = _Pickled(self.stream)
            self.failed += <Py_ssize_t>header.handle
            return False
        self.set_posted(False)
        self.ahead = False
        self.lent = None
        self.may_spin = header.method != 0
        return True

    cdef int post(self, Writer writer) except -1:
        """Send what `writer` holds, for which no reply comes."""
        self.hold()
        try:
            if not self.usable:
                raise stale()
            self.ahead = True
            self.stream.send_all(writer.data, writer.size, writer.segments or None)
        except OSError as error:
            self.usable = False
            raise _StaleConnection(error) from None
        except BaseException as error:
            self.usable = False
            self.interrupted = not isinstance(error, _StaleConnection)
            raise
        finally:
            self.let_go()
        self.set_posted(True)
        return 0

    cdef void set_posted(self, bint posted) noexcept:
        global posting_channels
        posting_channels += posted - self.posted
        self.posted = posted

    cdef int lend(self, object key, object value) except -1:
        """Keep something that one-way calls need until they are known to have been served."""
        if self.lent is None:
            self.lent = {}
        (<dict>self.lent)[key] = value
        return 0

    cdef int await_posted(self) except -1:
        """Before the end of the process: let the one-way calls be served, within reason."""
        cdef Writer writer = Writer()
        cdef int status
        if not self.posted or not self.usable or not self.hold_now():
            return 0
        try:
            self.put_call(
                writer, self.begin(writer, None), OP_CONTROL, 0, 0, "dummy", (), None)
            self.stream.send_all(writer.data, writer.size, None)
            self.stream.set_timeout(LAST_WAIT)
            while True:
                status = self.stream.receive(False, NULL, False)
                if status != FRAME_READY or self.stream.header.op != OP_FAILED:
                    break
        except OSError as error:
            util.debug("the manager is gone: %s", error)
        finally:
            self.usable = False
            self.let_go()
        return 0

    cdef list pipeline(self, list calls, list due, list others):
        """Send many calls together and take all their replies: what they carry.

        Replies that are not plain results are listed in `others` too, as (index,
        operation, payload).  Requests are sent while replies come, for the server
        stops reading from who does not read its replies.
        """
        cdef Stream stream = self.stream
        cdef Writer frames = Writer()
        cdef list replies = []
        cdef Py_ssize_t i, count = len(calls) // 4
        cdef size_t at = 0, start
        cdef uint32_t first
        # All of it before the lock is taken: pickling may call another proxy over this channel.
        if due:
            start = self.begin(frames, due)
            frames.size = at = start - HEADER_SIZE
        for i in range(count):
            frames.grow(HEADER_SIZE)
            frames.size += HEADER_SIZE
            self.put_call(
                frames, frames.size, OP_CALL, FLAG_FOLLOWS if i else 0,
                (<ProxyCore?>calls[4 * i])._handle, calls[4 * i + 1], calls[4 * i + 2],
                calls[4 * i + 3],
            )
        self.hold()
        try:
            if not self.usable:
                raise stale()
            first = self.calls + 1
            while at < frames.size:
                self.calls += 1
                (<Header *>(frames.data + at)).call = self.calls
                at += HEADER_SIZE + (<Header *>(frames.data + at)).size
            at = 0
            while at < frames.size:
                at += self.send_some(frames.data + at, frames.size - at)
                while len(replies) < count and self.arrived(first + <uint32_t>len(replies)):
                    self.take_reply(replies, others)
            while len(replies) < count:
                self.receive(first + <uint32_t>len(replies))
                self.take_reply(replies, others)
            stream.tidy()
        except BaseException as error:
            self.usable = False
            self.interrupted = not isinstance(error, (OSError, EOFError, _StaleConnection))
            raise
        finally:
            self.let_go()
        return replies

    cdef size_t send_some(self, const char *data, size_t size) except? 0:
        """Send a portion without waiting, or wait until something can be sent or read."""
        cdef ssize_t n = fm_send(
            self.stream.fd, data, size if size < PORTION else PORTION, MSG_DONTWAIT)
        cdef int ready
        if n >= 0:
            return <size_t>n
        if -n == EAGAIN:
            with nogil:
                ready = fm_poll_one(self.stream.fd, POLLIN | POLLOUT, -1)
            if ready >= 0:
                return 0
            n = ready
        if -n != EINTR:
            raise OSError(-n, os.strerror(-n))
        PyErr_CheckSignals()
        return 0

    cdef bint arrived(self, uint32_t expected) except -1:
        """Whether the reply to a call is there; does not wait."""
        cdef Stream stream = self.stream
        cdef int status = stream.take()
        if status == FRAME_PARTIAL:
            status = stream.receive_now()
            if status == FRAME_READY:
                status = stream.take()
        if status == FRAME_PARTIAL:
            return False
        return self.check(status, expected)

    cdef int take_reply(self, list replies, list others) except -1:
        """Add what the last frame carries; pickles stay bytes until the channel is free."""
        cdef Stream stream = self.stream
        payload = self.payload()
        if stream.header.handle:
            payload = ("%x" % stream.header.handle, payload)
        if stream.header.op != OP_RETURN or stream.header.flags & FLAG_PICKLED:
            others.append((len(replies), <int>stream.header.op, payload))
        replies.append(payload)
        return 0

    cdef Segment attach(self, object number):
        """Have a segment of the server's arena passed and map it; None if there is none.

        Raises
        ------
        OSError
            The connection failed, or the segment could not be mapped.
        """
        cdef Writer writer = Writer()
        cdef size_t start = self.begin(writer, None)
        cdef int passed = -1
        cdef int status
        self.hold()
        try:
            if not self.usable:
                return None
            self.finish(writer, start, OP_ATTACH, 0, 0, number)
            self.stream.send_all(writer.data, writer.size, None)
            status = self.stream.receive_passed(&passed)
            if status == FRAME_READY:
                status = self.stream.receive(True, NULL, False)
            while not self.check(status, self.calls):
                status = self.stream.receive(True, NULL, False)
            where = self.payload()
            self.stream.tidy()
        except BaseException as error:
            self.usable = False
            self.interrupted = not isinstance(error, (OSError, EOFError))
            if passed >= 0:
                os.close(passed)
            raise
        finally:
            self.let_go()
        if where is None or passed < 0:
            if passed >= 0:
                os.close(passed)
            return None
        return map_segment(number, passed, *where)

    cdef int send_alone(self, list due) except -1:
        """Send releases, if no call is under way; 1 if done.

        A server that is gone counts as done: what it held for us is gone with it.
        """
        cdef Writer writer
        cdef size_t start
        if self.interrupted or self.stream.fd < 0:
            return 0
        if not self.hold_now():
            return 0
        try:
            writer = Writer()
            start = self.begin(writer, due)
            writer.size = start - HEADER_SIZE
            self.ahead = True
            self.stream.send_all(writer.data, writer.size, None)
        except OSError as error:
            util.debug("the manager is gone: %s", error)
        finally:
            self.let_go()
        return 1


@cython.final
cdef class StockChannel(Channel):
    """A connection that speaks the stdlib's dialect, over any serializer.

    Parameters
    ----------
    conn : connection
        Anything with ``send``, ``recv`` and ``close``, already accepted by the server.
    """

    cdef object conn

    def __init__(self, conn):
        self.conn = conn

    cpdef tuple call(self, object ident, object name, object args, object kwds):
        self.hold()
        try:
            kind, payload = self.ask((ident, name, args, kwds or {}))
        finally:
            self.let_go()
        op = OPS.get(kind)
        if op is None:
            raise convert_to_error(kind, payload)
        if op == OP_PROXY:
            exposed, token = payload
            return op, (token.id, (exposed, token.typeid, None))
        return op, payload

    cdef object ask(self, tuple request):
        """Send a request and receive its reply."""
        try:
            self.conn.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.usable = False
            raise _StaleConnection(error) from None
        try:
            return self.conn.recv()
        except (OSError, EOFError):
            self.usable = False
            raise
        except BaseException:
            # Also where the reply could not be decoded: nobody knows how far it was read.
            self.usable = False
            self.interrupted = True
            raise

    cpdef object close(self):
        self.usable = False
        self.conn.close()

    cpdef object abandon(self):
        self.close()


@cython.final
cdef class Tenancy:
    """A thread's hold on its channel, dropped when the thread ends."""

    def __dealloc__(self):
        if self.session is None or self.channel is None or not self.channel.usable:
            return
        session = self.session()
        if session is not None:
            (<ClientSession>session).lose(self.channel, True)


# Every session of this process, for the child of a fork.
cdef object sessions = weakref.WeakSet()


@cython.final
cdef class ClientSession:
    """What this process and one server have with each other.

    Parameters
    ----------
    address : address
        The server's.
    serializer : str
        A key of `listener_client`.
    authkey : bytes
    """

    def __init__(self, address, serializer, authkey):
        self.address = address
        self.serializer = serializer
        self.authkey = authkey
        self.holdings = {}
        self.reset()
        sessions.add(self)
        util.register_after_fork(self, _introduce_child)

    def reset(self):
        """Begin anew, with no connection: at first, and in the child of a fork.

        The proxies of a forked child are counted in its books but unknown to the
        server, which hears of them with the child's first connection.
        """
        cdef Holding holding
        self.id = os.urandom(SESSION_ID_SIZE)
        self.end_view()
        self.local = threading.local()
        self.channels = []
        self.orphan = None
        self.releases = []
        self.farewell = None
        for ident, holding in list(self.holdings.items()):
            holding.owed = holding.unclaimed = 0
            if holding.local == 0:
                del self.holdings[ident]

    def after_fork_in_child(self):
        """Drop the inherited connections: they are the parent's."""
        cdef Channel channel
        for channel in [*self.channels, self.orphan]:
            if channel is not None:
                channel.renew_lock()
                channel.abandon()
        self.reset()

    def end_view(self):
        """What proxies know of the arena is not to be relied on any more."""
        if self.view is not None:
            self.view.usable = False

    cdef bint has_posted(self) except -1:
        """Whether the calling thread has made one-way calls that may not have been served."""
        cdef Channel channel = self.channel()
        return channel.failed or isinstance(channel, FastChannel) and (<FastChannel>channel).posted

    cdef uint64_t thread_number(self) except 0:
        """The calling thread's, among those of this process that have had to do with the server."""
        number = getattr(self.local, "number", None)
        if number is None:
            # 24 bits of it are sent: after 16 million threads it begins anew.
            self.local.number = number = self.threads % ((1 << THREAD_BITS) - 1) + 1
            self.threads += 1
        return number

    cdef uint64_t thread_owner(self) except 0:
        """What the calling thread is to the server when it holds a slot."""
        return self.view.owner | self.thread_number()

    # -- the arena --------------------------------------------------------

    cdef object locate(self, object ident, uint64_t handle):
        """Ask where an object's cell is; its kind, segment, offset, size, and what else is known.

        None where this process cannot have it.
        """
        cdef View view
        cdef Segment segment
        if self.is_stock() or not isinstance(self.channel(), FastChannel):
            return None
        view = self.view
        if view.none:
            return None
        op, found = self.perform(OP_LOCATE, 0, ident, handle, None, None, None)
        if found is False:
            view.none = True
        if op != OP_RETURN or not found:
            return None
        kind, number, offset, size, about = found
        if view.alive is NULL and self.segment(view, 0) is None:
            return None
        segment = self.segment(view, number)
        if segment is None or not view.usable or view is not self.view:
            return None
        if offset > segment.size or segment.size - offset < size or offset % 8:
            raise OSError(f"a cell of {size} bytes at {offset} does not lie in its segment")
        return kind, segment, offset, size, about

    cdef Segment segment(self, View view, object number):
        """A segment, mapped now if it was not; None if that is impossible."""
        cdef Segment segment = view.segment(number)
        if segment is None:
            segment = self.attach(number)
            if segment is None:
                view.none = True
            else:
                view.keep(segment)
        return segment

    cdef Segment attach(self, object number):
        """Have a segment passed over the calling thread's channel; None if that is impossible."""
        cdef Channel channel = self.channel()
        try:
            return (<FastChannel?>channel).attach(number)
        except BaseException as error:
            if not channel.usable:
                self.lose(channel, channel.interrupted)
            if not isinstance(error, (OSError, EOFError, MemoryError)):
                raise
            util.info("the manager's memory cannot be mapped: %s", error)

    cdef int have_mailbox(self, FastChannel channel) except -1:
        """Have a mailbox for the calling thread's channel, if there can be one."""
        cdef Segment segment
        channel.asked = True
        if not self.view.none:
            segment = self.attach(MAILBOX)
            if segment is not None:
                segment.forget_fd()
                channel.stream.share(segment, False)
        return 0

    # -- channels ---------------------------------------------------------

    cdef Channel channel(self):
        """The calling thread's channel, opened if there is none."""
        cdef Tenancy tenancy, outer = None
        cdef unsigned long me
        cdef object found = getattr(self.local, "connection", None)
        if found is not None:
            tenancy = <Tenancy>found
            if tenancy.channel.usable and tenancy.channel.holder == 0:
                return tenancy.channel
        # A signal's handler and a finalizer may call while a call of their thread is under way.
        me = PyThread_get_thread_ident()
        tenancy = found
        while tenancy is not None and tenancy.channel.holder == me:
            outer, tenancy = tenancy, tenancy.spare
        if tenancy is None or not tenancy.channel.usable:
            tenancy = self.open_channel()
            if outer is None:
                self.local.connection = tenancy
            else:
                outer.spare = tenancy
        return tenancy.channel

    def connect(self):
        """Open a connection for the calling thread, in place of the one it has."""
        cdef object old = getattr(self.local, "connection", None)
        self.local.connection = self.open_channel()
        if old is not None:
            self.lose((<Tenancy>old).channel, False)

    cdef Tenancy open_channel(self):
        """Open a channel for the calling thread."""
        cdef Channel channel = None
        cdef Tenancy tenancy
        name = process.current_process().name
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            name = f"{name}|{thread.name}"
        util.debug("connecting to the manager at %r", self.address)
        if self.serializer == "pickle" and uses_raw_sockets("pickle") and not self.stock:
            channel = self.open_fast(name)
        if channel is None:
            channel = self.open_stock(name)
        tenancy = Tenancy()
        tenancy.channel = channel
        tenancy.session = weakref.ref(self)
        return tenancy

    cdef Channel open_fast(self, object name):
        """A channel that speaks the fast dialect; None if the server does not."""
        cdef Stream stream = connect(
            self.address, self.authkey, introduction(self.id, name, self.thread_number()))
        cdef FastChannel channel
        kind, answer = SERIALIZERS["pickle"][1](stream.recv_bytes())
        if kind != "#RETURN":
            stream.close_fd()
            self.stock = True
            return None
        stream.fast = True
        self.instance, resumed, number, place = answer
        channel = FastChannel(stream)
        if not resumed or self.view is None or not self.view.usable:
            self.end_view()
            self.view = View(<uint64_t>number << THREAD_BITS, place, self.instance, self.view)
        self.adopt(channel)
        if not resumed and self.holdings:
            self.reclaim(channel)
        return channel

    cdef Channel open_stock(self, object name):
        conn = stock_client(self.serializer)(self.address, authkey=self.authkey)
        dispatch(conn, None, "accept_connection", (name,))
        channel = StockChannel(conn)
        self.adopt(channel)
        return channel

    cdef int adopt(self, Channel channel) except -1:
        authkeys[self.address] = self.authkey
        self.channels.append(channel)
        if self.orphan is not None:
            orphan, self.orphan = self.orphan, None
            self.lose(orphan, False)
        if self.farewell is None:
            # Before a manager's own finalizer (0), after users' (> 10).
            self.farewell = util.Finalize(
                self, _say_goodbye, args=(weakref.ref(self),), exitpriority=10
            )
        return 0

    cdef int reclaim(self, FastChannel channel) except -1:
        """Tell a server that does not know this session what it holds."""
        cdef Holding holding
        cdef list handles = []
        self.releases = []
        for holding in list(self.holdings.values()):
            holding.owed = holding.unclaimed = 0
            handles.append(holding.handle)
        missing = set(channel.request(OP_INCREF, 0, 0, None, handles, None, None)[1])
        for holding in list(self.holdings.values()):
            if holding.handle in missing:
                util.info("object %x is gone from the manager", holding.handle)
            else:
                holding.owed += 1
        return 0

    cdef int replace_orphan(self) except -1:
        """Open a connection in place of an interrupted one, whose call then ends in the server.

        It would go on waiting there otherwise, and take what others should have.
        """
        try:
            self.channel()
        except Exception as error:
            util.debug("the interrupted connection stays open: %s", error)
        return 0

    cdef int lose(self, Channel channel, bint keep) except -1:
        """A channel is not to be used again.

        With `keep` it stays open as long as it is all that shows the server that
        this process lives.
        """
        channel.usable = False
        if channel in self.channels:
            self.channels.remove(channel)
        if keep and self.holdings and not self.channels and self.orphan is None:
            self.orphan = channel
        else:
            channel.close()
            if not self.channels and self.orphan is None:
                self.end_view()     # the server ends the session
        return 0

    # -- the books --------------------------------------------------------

    def acquire(self, ident):
        """Take a reference to an object, for one proxy.

        Raises
        ------
        RemoteError
            The object is gone.
        """
        cdef Ref ref = Ref()
        cdef Holding holding = self.holdings.get(ident)
        cdef Holding fresh
        if holding is None:
            fresh = Holding()
            fresh.handle = handle_of(ident)
            self.ask_for(ident, fresh.handle)
            holding = self.holdings.setdefault(ident, fresh)
            holding.owed += 1
        elif holding.unclaimed:
            holding.unclaimed -= 1
        holding.local += 1
        ref.session = self
        ref.ident = ident
        ref.holding = holding
        return ref

    cdef int ask_for(self, object ident, uint64_t handle) except -1:
        """Have the server count a reference for this process."""
        if not isinstance(self.channel(), FastChannel):
            self.one_shot("incref", (ident,), {})
            return 0
        _op, missing = self.perform(OP_INCREF, 0, ident, handle, None, (handle,), None)
        if missing:
            raise RemoteError(
                f"KeyError: {ident!r}: the manager at {self.address!r} "
                "shares no such object (any more)\n"
            )
        return 0

    cdef int given(self, object ident) except -1:
        """The server has counted a reference for us that no proxy has taken yet."""
        cdef Holding holding = self.holdings.get(ident)
        if holding is None:
            holding = Holding()
            holding.handle = handle_of(ident)
            holding = self.holdings.setdefault(ident, holding)
        holding.unclaimed += 1
        holding.owed += 1
        return 0

    def disclaim(self, ident):
        """Give back a reference that was given and not taken (a custom proxy may not)."""
        cdef Holding holding = self.holdings.get(ident)
        if holding is not None and holding.unclaimed:
            holding.unclaimed -= 1
            if holding.local == 0 and holding.unclaimed == 0:
                self.forget(ident, holding)

    cdef int forget(self, object ident, Holding holding) except -1:
        """This process holds nothing of the object any more."""
        if self.holdings.get(ident) is holding:
            del self.holdings[ident]
        if holding.owed and not self.retired:
            self.releases.append((ident if self.is_stock() else holding.handle, holding.owed))
            holding.owed = 0
            self.flush()
        return 0

    cdef int flush(self) except -1:
        """Send the releases that are due, unless a call under way will."""
        cdef Channel channel
        cdef object found
        cdef list due
        if self.is_stock():
            due, self.releases = self.releases, []
            for ident, count in due:
                try:
                    for _ in range(count):
                        self.one_shot("decref", (ident,), {})
                except Exception as error:
                    util.debug("decref of %s failed: %s", ident, error)
            if not self.holdings:
                # A stock server keeps the last object of a connection that stays open.
                self.disconnect()
            return 0
        found = getattr(self.local, "connection", None)
        if found is not None and (<Tenancy>found).channel.usable:
            # Where it is busy, this is a finalizer inside its own call, which flushes.
            self.release_over((<Tenancy>found).channel)
            return 0
        for channel in [*self.channels, self.orphan]:
            if channel is not None and self.release_over(channel):
                return 0
        try:
            self.release_over(self.channel())
        except (OSError, EOFError, AuthenticationError) as error:
            util.debug("release failed: %s", error)
            self.releases = []
        return 0

    cdef int release_over(self, Channel channel) except -1:
        """Send the releases that are due over `channel`, if it is free; 1 if done."""
        cdef list due
        if not isinstance(channel, FastChannel):
            return 0
        due, self.releases = self.releases, []
        if not due or (<FastChannel>channel).send_alone(due):
            return 1
        self.releases = due + self.releases
        return 0

    cdef bint is_stock(self):
        """Whether the server is known to speak only the stdlib's dialect."""
        return self.stock or self.serializer != "pickle" or not uses_raw_sockets("pickle")

    # -- requests -----------------------------------------------------------

    cdef tuple perform(
        self, uint8_t op, uint8_t flags, object ident, uint64_t handle, object name, object args,
        object kwds
    ):
        """Make a request over the calling thread's channel; once more if that was dead."""
        cdef Channel channel
        cdef list due = None
        cdef bint again = False
        cdef tuple reply
        while True:
            try:
                channel = self.channel()
            except OSError as error:
                if again:
                    raise dead from error
                raise
            try:
                if isinstance(channel, FastChannel):
                    if (<FastChannel>channel).wants_mailbox():
                        self.have_mailbox(channel)
                    if self.releases:
                        due, self.releases = self.releases, []
                    reply = (<FastChannel>channel).request(op, flags, handle, name, args, kwds, due)
                else:
                    reply = channel.call(ident, name, args, kwds)
            except BaseException as error:
                if channel.usable:
                    # It failed before anything was sent, or after all was received.
                    if due and not (<FastChannel>channel).send_alone(due):
                        self.releases = due + self.releases
                    raise
                self.lose(channel, channel.interrupted)
                if not isinstance(error, _StaleConnection):
                    if self.orphan is channel:
                        self.replace_orphan()
                    raise
                if due:
                    self.releases = due + self.releases
                    due = None
                dead = error.args[0]
                if again:
                    raise dead from None
                again = True
                continue
            if self.releases:
                self.flush()
            if channel.failed and op == OP_CALL and reply is not None:
                return channel.with_failure(reply)
            return reply

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
            What the replies carry.
        list of (index, operation, payload)
            The replies that are not plain results.

        Raises
        ------
        OSError, EOFError
            The connection failed; how many calls were served is unknown.
        """
        cdef list due, replies, others = []
        cdef Py_ssize_t i
        cdef Channel channel
        cdef tuple reply
        if not calls:
            return [], []
        channel = self.channel()
        if not isinstance(channel, FastChannel):
            replies = []
            for i in range(0, len(calls), 4):
                reply = self.perform(
                    OP_CALL, 0, calls[i]._id, 0, calls[i + 1], calls[i + 2], calls[i + 3])
                if reply[0] != OP_RETURN:
                    others.append((len(replies), *reply))
                replies.append(reply[1])
            return replies, others
        due, self.releases = self.releases, []
        try:
            replies = (<FastChannel>channel).pipeline(calls, due, others)
        except BaseException as raised:
            if channel.usable or isinstance(raised, _StaleConnection):
                self.releases = due + self.releases     # nothing was sent
            if not channel.usable:
                self.lose(channel, channel.interrupted)
                if self.orphan is channel:
                    self.replace_orphan()
            if isinstance(raised, _StaleConnection):
                raise raised.args[0] from None
            raise
        for i, other in enumerate(others):
            if isinstance(other[2], _Pickled):
                try:
                    replies[other[0]] = (<_Pickled>other[2]).load()
                    others[i] = other[0], other[1], replies[other[0]]
                except Exception as error:
                    others[i] = other[0], <int>OP_ERROR, error
        if channel.failed:
            if not others or others[0][0] != 0:
                others.insert(0, (0, <int>OP_RETURN, replies[0]))
            others[0] = 0, *channel.with_failure(others[0][1:])
        if self.releases:
            self.flush()
        return replies, others

    def post(self, proxy, name, args, kwds):
        """Make a call for which no reply comes; a failure shows with the thread's next call."""
        cdef Channel channel = self.channel()
        cdef tuple reply, before
        if isinstance(channel, FastChannel):
            self.perform(
                OP_CALL, FLAG_ONEWAY, proxy._id, (<ProxyCore?>proxy)._handle, name, args, kwds
            )
            channel = self.channel()
            if isinstance(channel, FastChannel):
                (<FastChannel>channel).lend(proxy._id, (<ProxyCore>proxy)._ref)
            return
        # A stock server knows nothing of the kind, and replies.
        failed, channel.failed = channel.failed, 0
        before = channel.failure
        try:
            try:
                reply = self.perform(OP_CALL, 0, proxy._id, 0, name, args, kwds)
            except (OSError, EOFError):
                raise
            except Exception as error:
                if channel.usable:
                    raise           # nothing was sent
                reply = <int>OP_ERROR, error
            if reply[0] == OP_PROXY:
                proxy._settle(*reply)
            elif reply[0] != OP_RETURN:
                before = before if failed else reply
                failed += 1
        finally:
            channel = self.channel()
            channel.failure, channel.failed = before, failed

    def create(self, typeid, args, kwds, bint anonymous):
        """Have an object made; return its ident and the exposed methods' names.

        An anonymous reference is nobody's: a ``decref`` has to return it, as in
        the stdlib.  Otherwise it is this session's, for a proxy to take.
        """
        if isinstance(self.channel(), FastChannel):
            op, reply = self.perform(
                OP_CREATE, FLAG_ANONYMOUS if anonymous else 0, None, 0, typeid, args, kwds
            )
            if op != OP_RETURN:
                raise convert_to_error(KINDS[op], reply)
        else:
            reply = self.one_shot("create", (typeid, *args), kwds)
        if not anonymous:
            self.given(reply[0])
        return reply

    def control(self, name, args=(), kwds=None):
        """Call one of the server's public functions."""
        if not isinstance(self.channel(), FastChannel):
            return self.one_shot(name, args, kwds or {})
        op, payload = self.perform(OP_CONTROL, 0, None, 0, name, args, kwds)
        if op == OP_RETURN:
            return payload
        raise convert_to_error(KINDS[op], payload)

    cdef object one_shot(self, object name, object args, object kwds):
        """A public function over a connection of its own, as the stdlib does it."""
        conn = stock_client(self.serializer)(self.address, authkey=self.authkey)
        try:
            return dispatch(conn, None, name, tuple(args), kwds)
        finally:
            conn.close()

    # -- the end ------------------------------------------------------------

    def goodbye(self):
        """Return everything in order and close; a later call would begin anew."""
        cdef Channel channel
        cdef Holding holding
        if self.is_stock():
            for ident, holding in list(self.holdings.items()):
                if holding.owed:
                    self.releases.append((ident, holding.owed))
                    holding.owed = 0
            if not self.retired:
                self.flush()
        else:
            for holding in list(self.holdings.values()):
                holding.owed = 0        # the server takes back what this process had
            for channel in [*self.channels, self.orphan]:
                if isinstance(channel, FastChannel):
                    (<FastChannel>channel).await_posted()
            for channel in [*self.channels, self.orphan]:
                if isinstance(channel, FastChannel):
                    (<FastChannel>channel).say_goodbye(True)
                    break
        self.disconnect()

    cdef int disconnect(self) except -1:
        cdef Channel channel
        self.end_view()
        for channel in [*self.channels, self.orphan]:
            if channel is not None:
                channel.close()
        self.channels = []
        self.orphan = None
        return 0

    def retire(self):
        """The server has been shut down: there is nobody to return references to."""
        self.retired = True
        self.releases = []
        self.disconnect()


def _say_goodbye(reference):
    session = reference()
    if session is not None:
        session.goodbye()


def _introduce_child(session):
    """In a child that multiprocessing forked: tell the server what this process holds.

    At once, as the stdlib does: the parent may be about to drop the proxies that
    it passed.  A child of a bare ``os.fork`` does it with its first call.
    """
    if (<ClientSession>session).holdings:
        try:
            (<ClientSession>session).channel()
        except Exception as error:
            # They may be proxies of a manager that has been shut down.
            util.info("incref failed: %s", error)


def _after_fork_in_child():
    for session in list(sessions):
        session.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef uint64_t handle_of(object ident) noexcept:
    """The handle that an ident spells; 0, which is no object's, if it spells none."""
    try:
        return int(ident, 16)
    except (OverflowError, TypeError, ValueError):
        return 0


cdef class ProxyCore:
    """The compiled part of `BaseProxy`: what a call needs."""

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
        cdef tuple reply = self._session().perform(
            OP_CALL, 0, self._id, self._handle, methodname, args, kwds
        )
        if <int>reply[0] == OP_RETURN:      # as an object it would be made a member of its enum
            return reply[1]
        return self._settle(*reply)

    def _settle(self, op, payload):
        """Turn a reply other than a plain result into a proxy, or raise what it stands for."""
        cdef ClientSession session = self._session()
        if op == OP_RETURN:
            return payload
        if op == OP_FAILED:
            failed, (kind, error), reply = payload
            try:
                result = self._settle(*reply)
            except Exception as raised:
                result = raised
            raise OnewayError(failed, result) from convert_to_error(KINDS[kind], error)
        if op == OP_PROXY:
            ident, (exposed, typeid, proxytype) = payload
            session.given(ident)
            try:
                return self._build_proxy(typeid, ident, exposed, proxytype)
            finally:
                session.disclaim(ident)
        try:
            raise convert_to_error(KINDS[op], payload)
        finally:
            payload = None

    cdef ClientSession _session(self):
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
            self._ref = self._session().acquire(self._id)

    def _close(self):
        """Give the reference back before the proxy is dropped; twice does nothing."""
        self._ref = None

    @property
    def _tls(self):
        """The calling threads' connections; ``.connection`` is this thread's."""
        return self._session().local

    def _connect(self):
        """Give the calling thread a fresh connection to the server."""
        self._session().connect()


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

    cdef object proxy, name

    def __init__(self, proxy, name):
        self.proxy = proxy
        self.name = name

    def __call__(self, *args, **kwds):
        (<ProxyCore?>self.proxy)._session().post(self.proxy, self.name, args, kwds)
