# cython: auto_pickle=False
"""A channel that speaks the fast dialect: requests by mail or over the socket, and replies."""

cimport cython
from libc.string cimport memset
from posix.unistd cimport getpid

from fastmgr.client cimport session as _session
from fastmgr.client.connections cimport Channel
from fastmgr.client.limits cimport begin_limited, end_of_calls, limits
from fastmgr.client.references cimport Holding
from fastmgr.client.session cimport Kept, Outcome, Target, failed_before, kept_at, outcome_of
from fastmgr.link.message cimport begin_message, seal
from fastmgr.link.stream cimport (
    FLAG_CARRIED, FLAG_ONEWAY, FLAG_PICKLED, FLAG_VERSION, FRAME_EOF, FRAME_PARTIAL,
    FRAME_READY, FRAME_TIMEOUT, HEADER_SIZE, OP_ATTACH, OP_CALL, OP_CONTROL, OP_ERROR, OP_FAILED,
    OP_GOODBYE, OP_INCREF, OP_LOCATE, OP_RELEASE, OP_RETURN, Header, Stream,
)
from fastmgr.link.system cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.versions cimport VERSIONS
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer, is_scalar

import errno
import os
from multiprocessing import util
from time import monotonic

from fastmgr.client.connections import StaleConnection
from fastmgr.client.limits import CallTimeout, unanswered
from fastmgr.link.sockets import is_loss
from fastmgr.memory.segments import map_segment
from fastmgr.wire.methods import METHODS

# Seconds that the end of a process waits for one-way calls to be served.
cdef double LAST_WAIT = 5.0

cdef packed struct Release:
    Header header
    uint64_t handle
    uint64_t count

cdef enum:
    MAIL_AFTER = 64         # calls, after which a channel has a mailbox
    TAKE_BACK_MS = 2000     # that an interrupted call waits for what it was given to be taken back
    LATE_TAKE_BACK_MS = 250     # the same where the call's time is over

cdef dict METHOD_NUMBERS = {name: number for number, name in enumerate(METHODS, 1)}

# By what `Writer.put_args` and `put_apart` say of a request's values.
cdef uint8_t[4] PICKLED_FLAGS = [0, FLAG_PICKLED | FLAG_CARRIED, FLAG_PICKLED, FLAG_PICKLED]


cdef bint all_scalars(kwds) except -1:
    for value in kwds.values():
        if not is_scalar(value):
            return False
    return type(kwds) is dict


cdef int put_pickled(Writer writer, Target target, object name, tuple args) except -1:
    """Encode arguments that need pickle; the result is an index of `PICKLED_FLAGS`."""
    if name == "put_many" and args and getattr(target, "_apart", False):
        return writer.put_apart(args)
    return writer.put_args(args)


cdef bint is_whole(Writer frames, size_t size) noexcept:
    """Whether the first `size` bytes are whole frames."""
    cdef size_t end = 0
    while end < size:
        end += HEADER_SIZE + <size_t>(<Header *>(frames.data + end)).size
    return end == size


@cython.final
cdef class PickledReply:
    """A reply that only pickle can read, to be read once its connection is free."""

    def __init__(self, Stream stream):
        self.data = stream.body[:stream.size]
        self.buffers = stream.buffers

    cdef object load(self):
        cdef Reader reader = Reader()
        reader.feed(self.data, <size_t>len(self.data), self.buffers, True)
        return reader.get()

    cdef tuple load_failure(self):
        """What OP_FAILED carries; what unpickling raises stands for an error that has none."""
        cdef Reader reader = Reader()
        reader.feed(self.data, <size_t>len(self.data), self.buffers, True)
        call = reader.get()
        try:
            return call, reader.get()
        except Exception as error:
            return call, (<int>OP_ERROR, error)


cdef object stale():
    """What a request over a channel that has ended meanwhile raises."""
    return StaleConnection(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))


cdef object unsent(error):
    """What a request raises that the server has not received whole."""
    late = in_words(error, False)
    return StaleConnection(error) if late is error else late


cdef object in_words(error, applied):
    """The `CallTimeout` in place of a stream's TimeoutError, if a block has set the time."""
    if type(error) is TimeoutError and is_loss(error) and end_of_calls() != 0.0:
        return unanswered("the server", applied)
    return error


@cython.final
@cython.no_gc
cdef class FastChannel(Channel):
    """A connection that speaks the fast dialect."""

    def __init__(self, Stream stream):
        self.stream = stream
        self.is_remote = not stream.transport.is_local()
        self.pid = getpid()
        self.writer = Writer()
        self.reader = Reader()

    def __dealloc__(self):
        self.set_posted(False)
        self.say_goodbye(False)

    cpdef object close(self):
        self.usable = False
        self.set_posted(False)
        self.say_goodbye(False)
        if self.pid != getpid():
            self.stream.close()      # the connection is the parent's
        elif self.cut_off and not self.stream.transport.is_local():
            self.stream.reset()         # the end would wait behind what the server does not read
        elif self.interrupted:
            self.stream.close_after(LATE_TAKE_BACK_MS if self.late else TAKE_BACK_MS)
        else:
            self.stream.close()

    cpdef object abandon(self):
        self.usable = False
        self.set_posted(False)
        self.stream.close()

    cdef void say_goodbye(self, bint whole) noexcept:
        """Tell the server that this is no crash: of the connection, or of the process.

        If a call was interrupted the server takes back what its reply gave, or would give.

        Behind a request that was sent in part nothing can be said: the server sees that it was.
        In a forked child other threads' channels are dropped before any of our
        hooks runs.
        """
        cdef Header header
        if self.stream is not None and not self.cut_off and self.pid == getpid():
            memset(&header, 0, HEADER_SIZE)
            header.op = OP_GOODBYE
            header.handle = whole
            header.call = self.untaken
            self.stream.send_small(<char *>&header, HEADER_SIZE)

    cdef bint wants_mailbox(self) noexcept:
        """Whether it is used often enough for a mailbox to pay, and has not asked for one."""
        return self.calls > MAIL_AFTER and not self.asked and not self.posted

    # -- requests ---------------------------------------------------------

    cdef size_t begin_request(self, Writer writer, list due) except 0:
        """Put the releases that are due, then room for a header; where its body starts."""
        cdef uint64_t pair[2]
        cdef size_t start
        writer.reset()
        start = begin_message(writer)
        if due:
            for holding, count in due:
                pair[0] = (<Holding>holding).handle
                pair[1] = count
                writer.write(pair, sizeof(pair))
            self.end_request(writer, start, OP_RELEASE, 0, 0, 0)
            start = begin_message(writer)
        return start

    cdef int put_call(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, Target target,
        object name, object args, object kwds
    ) except -1:
        """Encode a call, for which there is room for a header before `start`."""
        cdef object number = METHOD_NUMBERS.get(name) if op == OP_CALL else None
        cdef uint64_t handle = target._handle if target is not None else 0
        cdef int pickled
        if number is None:
            writer.put(name)
        if type(args) is not tuple:
            args = tuple(args)
        if not kwds:
            pickled = writer.put_compact(args) and put_pickled(writer, target, name, args)
            writer.put(None)
        elif all_scalars(kwds):
            pickled = writer.put_compact(args) and put_pickled(writer, target, name, args)
            if writer.put(kwds):
                pickled = 2     # a string that is no UTF-8
        else:
            # Together: they may share objects. True says so.
            pickled = 2 * writer.put((args, kwds))
            writer.put(True)
        return self.end_request(
            writer, start, op, flags | PICKLED_FLAGS[pickled],
            0 if number is None else <uint16_t>number, handle)

    cdef int end_request(
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

    cdef object request(
        self, uint8_t op, uint8_t flags, Target target, object name, object args, object kwds,
        list due
    ):
        """Encode a request, send it behind the releases that are due, and take the reply.

        The reply is what a call returns: a plain result, or an `Outcome`.
        """
        cdef size_t start
        cdef uint64_t handle = target._handle if target is not None else 0
        cdef Header *header
        cdef bint owner = not self.encoding
        # Pickling an argument may call another proxy, over this very channel.
        cdef Writer writer = self.writer if owner else Writer()
        self.encoding = True
        try:
            start = self.begin_request(writer, due)
            if op == OP_LOCATE:
                self.end_request(writer, start, op, flags, 0, handle)
            elif op == OP_INCREF:
                for item in args:
                    handle = item
                    writer.write(&handle, sizeof(handle))
                self.end_request(writer, start, op, flags, 0, 0)
            else:
                writer.out_of_band = True
                self.put_call(writer, start, op, flags, target, name, args, kwds)
            if flags & FLAG_ONEWAY:
                header = <Header *>(writer.data + start - HEADER_SIZE)
                if header.flags & FLAG_PICKLED and not header.flags & FLAG_CARRIED:
                    # There may be proxies in it: theirs are references that the server must not
                    # lose, by way of another thread's connection, before it has served the call.
                    self.retain(object(), (args, kwds))
                self.post(writer)
                return None
            return self.exchange(writer, due)
        finally:
            writer.buffers = writer.writable = None
            if owner:
                self.encoding = False

    cdef object exchange(self, Writer writer, list due):
        """Send what `writer` holds, and take the reply to its last frame.

        `due` is emptied before anything else can fail: the server has returned those references.
        """
        cdef Stream stream = self.stream
        cdef uint32_t expected = self.calls
        cdef uint8_t op
        cdef uint64_t handle
        cdef bytes data = None
        cdef bint versioned = False
        if limits:
            self.begin_limit()
        if not self.hold_now():     # in line: a call seldom has to wait for it
            self.hold()
        try:
            # Over TCP the kernel takes a request for a server that has ended.
            if not self.usable or self.is_remote and stream.at_end():
                raise stale()
            mailed = not self.ahead and not writer.buffers and stream.send_by_mail(
                writer.data, writer.size)
            if not mailed:
                self.send(writer)
            try:
                self.receive(expected)
            except (OSError, EOFError) as error:
                if mailed and stream.has_mail() and is_loss(error) and (
                    type(error) is not CallTimeout
                ):
                    raise stale() from None
                raise
            op = stream.header.op
            handle = stream.header.handle
            if handle != 0 and stream.header.flags & FLAG_VERSION:
                versioned = True
                if not stream.buffers:
                    data = stream.body[:stream.size]
            payload = self.payload()
            stream.drop_buffers()
        except BaseException as error:
            self.untaken = expected
            self.end(error)
            raise
        finally:
            self.let_go()
        if due:
            due.clear()
        if type(payload) is PickledReply:
            payload = (<PickledReply>payload).load()
        if op == OP_RETURN and handle == 0:
            return payload
        if versioned:
            return payload if data is None else kept_at(handle, payload, data)
        return outcome_of(op, payload, handle)

    cdef int send(self, Writer writer) except -1:
        """Send all that `writer` holds."""
        self.cut_off = True
        try:
            self.stream.send_all(writer.data, writer.size, writer.buffers or None)
        except OSError as error:
            if is_loss(error):
                raise unsent(error) from None
            raise
        self.cut_off = False
        return 0

    cdef object payload(self):
        """What the last frame carries, or a `PickledReply` of it.

        Unpickling may call over this channel and overwrite the stream's buffer.
        """
        cdef Stream stream = self.stream
        if stream.header.flags & FLAG_PICKLED:
            return PickledReply(stream)
        self.reader.feed(stream.body, stream.size, stream.buffers, False)
        value = self.reader.get()
        self.reader.buffers = None
        return value

    cdef int receive(self, uint32_t expected) except -1:
        """Wait for the reply to a call; what is said before of failures is kept."""
        while not self.check(self.stream.receive(True, &self.spinner, self.may_spin), expected):
            pass
        return 0

    cdef int begin_limit(self) except -1:
        """Set the deadline of a request that is about to be sent, or end that of the one before."""
        cdef double until = begin_limited(), own
        if self.limit != 0.0:
            own = <double>monotonic() + self.limit
            until = own if until == 0.0 else min(own, until)
        self.stream.until = until
        return 0

    cdef int end(self, error) except -1:
        Channel.end(self, error)
        if type(error) is CallTimeout:
            self.interrupted = self.late = True
        return 0

    cdef bint check(self, int status, uint32_t expected) except -1:
        """Whether the frame just received is the reply to a call, not what is said before it."""
        cdef Header *header = &self.stream.header
        if status == FRAME_EOF:
            raise EOFError
        if status == FRAME_TIMEOUT:
            if end_of_calls() != 0.0:
                raise unanswered("the server", None)
            raise TimeoutError("the server did not answer in time")
        if status != FRAME_READY or header.call != expected:
            raise OSError("bad message from the server")
        if header.op == OP_FAILED:
            if self.failed == 0:
                self.failure = PickledReply(self.stream)
            self.failed += <Py_ssize_t>header.handle
            return False
        self.set_posted(False)
        self.ahead = False
        self.retained = None
        self.may_spin = header.method != 0
        return True

    cdef Outcome with_failure(self, reply):
        """The outcome of a call that came to `reply`, where one-way calls before it failed."""
        failure, self.failure = self.failure, None
        failed, self.failed = self.failed, 0
        if type(reply) is Kept:
            reply = (<Kept>reply).value
        return failed_before(failed, (<PickledReply>failure).load_failure(), reply)

    cdef int post(self, Writer writer) except -1:
        """Send what `writer` holds, for which no reply comes."""
        if limits:
            self.begin_limit()
        self.hold()
        try:
            if not self.usable:
                raise stale()
            self.ahead = True
            self.send(writer)
        except BaseException as error:
            self.end(error)
            raise
        finally:
            self.let_go()
        self.set_posted(True)
        return 0

    cdef void set_posted(self, bint posted) noexcept:
        _session.posting_channels += posted - self.posted
        self.posted = posted

    cdef int retain(self, object key, object value) except -1:
        """Keep something that one-way calls need until they are known to have been served."""
        if self.retained is None:
            self.retained = {}
        (<dict>self.retained)[key] = value
        return 0

    cdef int await_posted(self) except -1:
        """Before the end of the process: let the one-way calls be served, within reason."""
        cdef Writer writer = Writer()
        if not self.posted or not self.usable or not self.hold_now():
            return 0
        try:
            self.put_call(
                writer, self.begin_request(writer, None), OP_CONTROL, 0, None, "dummy", (), None)
            self.stream.until = 0.0
            self.stream.send_all(writer.data, writer.size, None)
            self.stream.set_timeout(LAST_WAIT)
            while (
                self.stream.receive(False, NULL, False) == FRAME_READY
                and self.stream.header.op == OP_FAILED
            ):
                pass
        except OSError as error:
            util.debug("the manager is gone: %s", error)
        finally:
            self.usable = False
            self.let_go()
        return 0

    cdef list pipeline(self, Writer frames, Py_ssize_t count, list others):
        """Send many calls together and take all their replies: what they carry.

        Those that are no plain results are outcomes, whose indices are put into `others`; a pickle
        among them stays a `PickledReply`, until the channel is free.  Requests are sent while
        replies come, for the server stops reading from a client that does not read its replies.
        """
        cdef Stream stream = self.stream
        cdef list replies = []
        cdef size_t at = 0
        cdef uint32_t first = 0
        if limits:
            self.begin_limit()
        self.hold()
        try:
            if not self.usable:
                raise stale()
            if stream.unsent is not None:
                stream.send_all(NULL, 0, None)
            while at < frames.size:
                # Others may have called since they were numbered.
                self.calls += 1
                (<Header *>(frames.data + at)).call = self.calls
                at += HEADER_SIZE + (<Header *>(frames.data + at)).size
            first = self.calls - <uint32_t>count + 1
            at = 0
            while at < frames.size:
                at += stream.send_some(frames.data + at, frames.size - at)
                while len(replies) < count and self.arrived(first + <uint32_t>len(replies)):
                    self.take_reply(replies, others)
            while len(replies) < count:
                self.receive(first + <uint32_t>len(replies))
                self.take_reply(replies, others)
            stream.drop_buffers()
        except BaseException as error:
            self.untaken = first    # nobody gets those that were read
            self.cut_off = not is_whole(frames, at)
            late = in_words(error, None)
            self.end(late)
            if late is not error:
                raise late from None
            raise
        finally:
            self.let_go()
        return replies

    cdef bint arrived(self, uint32_t expected) except -1:
        """Whether the reply to a call is there; does not wait."""
        cdef int status = self.stream.take()
        if status == FRAME_PARTIAL:
            status = self.stream.receive_now()
            if status == FRAME_READY:
                status = self.stream.take()
        return status != FRAME_PARTIAL and self.check(status, expected)

    cdef int take_reply(self, list replies, list others) except -1:
        """Add what the last frame carries; pickles stay bytes until the channel is free."""
        cdef Stream stream = self.stream
        reply = self.payload()
        if stream.header.op != OP_RETURN or stream.header.flags & FLAG_PICKLED:
            reply = outcome_of(stream.header.op, reply, stream.header.handle)
            others.append(len(replies))
        replies.append(reply)
        return 0

    cdef Segment attach(self, object number):
        """Have a segment of the server's arena passed and map it; None if there is none."""
        cdef Writer writer = Writer()
        cdef size_t start = self.begin_request(writer, None)
        cdef int passed = -1
        cdef int status
        where = None
        if limits:
            self.begin_limit()
        self.hold()
        try:
            if not self.usable:
                return None
            self.end_request(writer, start, OP_ATTACH, 0, 0, number)
            self.stream.send_all(writer.data, writer.size, None)
            status = self.stream.receive_passed(&passed)
            if status == FRAME_READY:
                status = self.stream.receive(True, NULL, False)
            while not self.check(status, self.calls):
                status = self.stream.receive(True, NULL, False)
            where = self.payload()
            self.stream.drop_buffers()
        except BaseException as error:
            late = in_words(error, False)
            self.end(late)
            if late is not error:
                raise late from None
            raise
        finally:
            self.let_go()
            if where is None and passed >= 0:
                os.close(passed)
        return None if where is None or passed < 0 else map_segment(
            number, passed, *where, number == VERSIONS)

    cdef bint is_free(self) noexcept:
        """Take the lock for something that gets no reply, if no call is under way."""
        return (
            not self.interrupted and self.stream.fd >= 0 and self.pid == getpid()
            and self.hold_now()
        )

    cdef bint release(self, Holding holding) noexcept:
        """Return what the server counts of an object now; False where that would have to wait.

        This runs inside deallocations: there is no Python code in it.
        """
        cdef Release frame
        cdef bint sent
        if not self.is_free():
            return False
        memset(&frame, 0, sizeof(frame))
        frame.header.size = sizeof(frame) - HEADER_SIZE
        frame.header.op = OP_RELEASE
        frame.handle = holding.handle
        frame.count = <uint64_t>holding.counted
        sent = self.stream.send_small(<char *>&frame, sizeof(frame))
        self.ahead = self.ahead or sent
        self.let_go()
        return sent

    cdef int send_alone(self, list due) except -1:
        """Send releases, if no call is under way, without waiting; 1 if done.

        What the server does not take now goes with the next request.
        """
        cdef Writer writer = Writer()
        cdef size_t start = self.begin_request(writer, due)
        cdef int status
        if not self.is_free():
            return 0
        try:
            self.ahead = True
            status = self.stream.send_now(writer.data, start - HEADER_SIZE, None)
            if status == FRAME_EOF:
                self.stream.unsent = None
        finally:
            self.let_go()
        return status != FRAME_EOF
