# cython: auto_pickle=False
"""A session in the fast dialect: requests, releases, introductions, and the server's memory.

Proxies work on their objects' cells by themselves, as long as the session's `View` is usable: it
ends with the session.  Locks that were taken so are known to the server by the session's number.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF

from fastmgr.client.connections cimport Channel, Connections, ThreadChannel, thread_name
from fastmgr.client.fastchannel cimport FastChannel, PickledReply
from fastmgr.client.limits cimport note_limits
from fastmgr.client.references cimport Holding
from fastmgr.client.session cimport (
    FOR_DISPLAY, Outcome, Session, Target, error_of, note_oneway_calls, outcome_of,
)
from fastmgr.client.stock cimport dial
from fastmgr.link.message cimport begin_message
from fastmgr.link.stream cimport (
    FLAG_ANONYMOUS, FLAG_FOLLOWS, FLAG_GAINS, FLAG_ONEWAY, FLAG_VERSION, MAILBOX, OP_CALL,
    OP_CONTROL, OP_CREATE, OP_ERROR, OP_FAILED, OP_INCREF, OP_LOCATE, OP_PROXY, OP_REFUSED,
    OP_RETURN, Stream,
)
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.memory.arena cimport View
from fastmgr.memory.segments cimport Segment
from fastmgr.wire.writer cimport Writer

import os
from multiprocessing import AuthenticationError, util

from fastmgr.client.connections import StaleConnection
from fastmgr.client.limits import CallTimeout
from fastmgr.client.stock import StockSession
from fastmgr.link.introduction import SESSION_ID_SIZE, Introducer, is_off
from fastmgr.link.sockets import Missing, connect, is_loss, named, settle
from fastmgr.stock.dialect import RemoteError, uses_raw_sockets


class OtherDialect(Exception):
    """The server speaks the stdlib's dialect alone."""


cdef tuple introduce(ClientSession session, object name, double seconds):
    """Connect and introduce a session: the stream, and what the server has answered.

    The answer is None where the server does not speak the fast dialect.
    """
    introducer = Introducer(session.id, name, session.thread_number())
    stream = connect(session.address, session.authkey, introducer.introduce, seconds)
    try:
        with Missing("to answer which dialect it speaks"):
            answer = stream.recv_bytes()
        return stream, introducer.read_answer(answer)
    except (OSError, EOFError, AuthenticationError) as error:
        if isinstance(error, AuthenticationError) or is_loss(error):
            raise named(error, session.address) from None
        raise


@cython.final
cdef class ClientSession(Connections):
    """A session with a server of ours, which may share its memory; or with a stock one.

    If the server turns out to speak the stdlib's dialect alone, another session, in that dialect,
    does all the work from then on.  A server that has spoken the fast dialect must go on doing so,
    for in the stdlib's another could answer in its place.
    """

    cdef bint is_fast               # the server has proved that it speaks the fast dialect
    cdef Session fallback           # with a server that does not
    cdef bytes id
    cdef object instance             # which server process answered last
    cdef tuple told                  # which, and the session's number there, know what is held
    cdef uint64_t threads            # of this process that have had a channel
    cdef Py_ssize_t taken            # locks and permits: while there are any it keeps itself alive

    introduces_at_once = True

    def reset(self):
        self.id = os.urandom(SESSION_ID_SIZE)
        self.has_nothing()
        Connections.reset(self)

    cdef Session other(self):
        """The session that does the work; None for this one itself."""
        if not self.is_fast and self.fallback is None:
            try:
                if not uses_raw_sockets(self.serializer):
                    raise OtherDialect
                self.channel()
                self.is_fast = self.fallback is None    # else another thread was told otherwise
            except OtherDialect:
                fallback = StockSession(
                    self.address, self.serializer, self.authkey, self.timeout)
                if self.fallback is None and not self.is_fast:
                    self.fallback = fallback
        return self.fallback

    # -- calls ------------------------------------------------------------

    cpdef object call(self, Target target, object name, object args, object kwds):
        if not self.is_fast and self.other() is not None:
            return self.fallback.call(target, name, args, kwds)
        return self.receive_from(self.perform(OP_CALL, 0, target, name, args, kwds))

    cdef object call_keeping(self, Target target, object name, object args):
        if not self.is_fast and self.other() is not None:
            return self.fallback.call(target, name, args, None)
        return self.receive_from(self.perform(OP_CALL, FLAG_VERSION, target, name, args, None))

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        if not self.is_fast and self.other() is not None:
            return self.fallback.call_after_posts(target, name, args, kwds, takes)
        return self.receive_from(
            self.perform(OP_CALL, FLAG_GAINS if takes else 0, target, name, args, kwds))

    cdef inline object receive_from(self, object reply):
        """Hold the reference that comes with a reply."""
        cdef Outcome outcome
        if type(reply) is Outcome:
            outcome = <Outcome>reply
            if outcome.op == OP_FAILED:
                self.receive_from(outcome.result)
            elif outcome.op == OP_PROXY:
                outcome.reference = self.receive(outcome.ident)
        return reply

    cdef object perform(
        self, uint8_t op, uint8_t flags, Target target, object name, object args, object kwds
    ):
        """Make a request over the calling thread's channel; once more if that was dead."""
        cdef FastChannel channel
        cdef list due = None
        cdef object dead = None
        while True:
            channel = <FastChannel>(self.channel() if dead is None else self.channel_again(dead))
            if flags & FLAG_GAINS and channel.failed:
                return channel.with_failure(outcome_of(OP_REFUSED, None, 0))
            try:
                if channel.wants_mailbox():
                    self.have_mailbox(channel)
                if self.some_due:
                    due = self.take_due()
                reply = channel.request(op, flags, target, name, args, kwds, due)
            except BaseException as error:
                raised = self.after_request(channel, due, error)
                if dead is not None or not isinstance(error, StaleConnection):
                    if raised is error:
                        raise
                    raise raised from None
                dead = raised
                due = None
                continue
            if self.some_due:
                self.flush()
            if channel.failed:
                if op == OP_CALL and not flags & FLAG_ONEWAY and name not in FOR_DISPLAY:
                    return channel.with_failure(reply)
                channel.set_posted(True)    # no fast path may pass it over
            return reply

    cdef object after_request(self, FastChannel channel, list due, error):
        """See to what a request that failed had with it; return what is to be raised."""
        cdef bint stale = isinstance(error, StaleConnection)
        cdef bint unsent = stale or channel.usable
        if due and unsent and not (channel.usable and channel.send_alone(due)):
            self.put_back(due)
        raised = self.after_failure(channel, error)
        if self.some_due and not unsent:
            self.flush()
        return raised

    def pipeline(self, list calls):
        cdef list due, replies, others = []
        cdef Py_ssize_t i, count = len(calls) // 4
        cdef size_t start
        cdef Writer frames
        cdef FastChannel channel
        cdef Outcome outcome
        if not calls:
            return [], []
        if self.other() is not None:
            return self.fallback.pipeline(calls)
        channel = <FastChannel>self.channel()
        due = self.take_due()
        try:
            # All of it before it takes the lock: pickling may call another proxy over this channel.
            frames = Writer()
            start = channel.begin_request(frames, due)
            for i in range(count):
                channel.put_call(
                    frames, begin_message(frames) if i else start, OP_CALL,
                    FLAG_FOLLOWS if i else 0, <Target?>calls[4 * i],
                    calls[4 * i + 1], calls[4 * i + 2], calls[4 * i + 3])
            replies = channel.pipeline(frames, count, others)
        except BaseException as error:
            raised = self.after_request(channel, due, error)
            if raised is error:
                raise
            raise raised from None
        for i in others:
            self.receive_from(replies[i])
        for i in others:
            outcome = replies[i]
            if isinstance(outcome.payload, PickledReply):
                try:
                    outcome.payload = (<PickledReply>outcome.payload).load()
                except Exception as error:
                    outcome.op, outcome.payload = OP_ERROR, error
        if channel.failed:
            if not others or others[0] != 0:
                others.insert(0, 0)
            replies[0] = channel.with_failure(replies[0])
        if self.some_due:
            self.flush()
        return replies, others

    def post(self, Target target, name, args, kwds):
        if self.other() is not None:
            return self.fallback.post(target, name, args, kwds)
        note_oneway_calls()
        self.perform(OP_CALL, FLAG_ONEWAY, target, name, args, kwds)
        (<FastChannel>self.channel()).retain(target._id, target._ref)

    cdef bint has_posted(self) except -1:
        cdef FastChannel channel
        cdef ThreadChannel mine = getattr(self.local, "connection", None)
        cdef unsigned long me = PyThread_get_thread_ident()
        while mine is not None and mine.channel.holder == me:
            mine = mine.spare
        if mine is None or not mine.channel.usable:
            return False    # nobody connects to find out
        channel = <FastChannel>mine.channel
        return channel.failed or channel.posted

    # -- objects, and the server ------------------------------------------

    def create(self, typeid, args, kwds, bint anonymous=False):
        cdef Outcome made
        if self.other() is not None:
            return self.fallback.create(typeid, args, kwds, anonymous)
        made = self.perform(
            OP_CREATE, FLAG_ANONYMOUS if anonymous else 0, None, typeid, args, kwds)
        if made.op != OP_RETURN:
            raise error_of(made)
        return made.ident, made.payload, None if anonymous else self.receive(made.ident)

    def acquire(self, Target target):
        if self.is_fast or target._id in self.holdings or self.other() is None:
            return Connections.acquire(self, target)
        return self.fallback.acquire(target)

    cdef bint regain(self, Target target) except -1:
        return self.fallback is None and Connections.regain(self, target)

    def held(self):
        return Connections.held(self) if self.fallback is None else self.fallback.held()

    def control(self, name, args=(), kwds=None):
        if self.other() is not None:
            return self.fallback.control(name, args, kwds)
        reply = self.perform(OP_CONTROL, 0, None, name, args, kwds)
        if type(reply) is Outcome:
            raise error_of(reply)
        return reply

    cdef int request_reference(self, Target target) except -1:
        missing = self.perform(OP_INCREF, 0, None, None, (target._handle,), None)
        if missing:
            raise RemoteError(f"KeyError: {missing[target._handle]!r} (by {self.address!r})\n")
        return 0

    # -- releases -----------------------------------------------------------

    cdef bint release_now(self, Holding holding) noexcept:
        """Return a reference, if a channel is free; the calling thread's comes first."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef Channel channel
        cdef bint mine
        if not self.channels and self.keepalive is None:
            return True     # without a connection the server has ended the session
        for mine in range(1, -1, -1):
            for channel in self.channels:
                if (channel.thread == me) == mine and (<FastChannel>channel).release(holding):
                    return True
        return self.keepalive is not None and (<FastChannel>self.keepalive).release(holding)

    cdef void flush(self) noexcept:
        """Send the releases that are due, where a channel is free; else a call under way will.

        There is no Python code in it, so it may run while a result that must not get lost waits
        to be returned: no handler of a signal can raise here.
        """
        cdef list due = self.take_due()
        if not due or not self.channels and self.keepalive is None:
            return      # without a connection the server has ended the session
        for channel in self.open_channels():
            if (<FastChannel>channel).send_alone(due):
                return
        self.put_back(due)

    # -- connections --------------------------------------------------------

    cdef Channel open(self, object name):
        cdef bint shares = not is_off("FASTMGR_ARENA")
        cdef FastChannel channel
        cdef Stream stream
        cdef double seconds = self.time_to_dial()
        stream, answer = introduce(self, name, seconds)
        if answer is None:
            stream.close()
            if self.instance is None:
                raise OtherDialect
            raise AuthenticationError(
                f"the server at {self.address!r} proves less than it did before: "
                "another may answer in its place"
            )
        stream.fast = True
        if self.instance is not None and self.instance != answer[0]:
            self.has_nothing()      # what was held went with the server
        self.instance, resumed, number, place = answer
        channel = FastChannel(stream)
        if not resumed or self.view is None or not self.view.usable:
            self.end_view()
            self.view = View(
                <uint64_t>number << THREAD_BITS, place if shares else 0, self.instance, self.view)
        self.adopt(channel)
        channel.limit = seconds
        # Where it is resumed, the thread that was first may not have told yet what is held.
        if self.holdings and (not resumed or self.told != (answer[0], number)):
            try:
                self.reclaim(channel)
            except BaseException as error:
                self.lose(channel, channel.interrupted)
                if isinstance(error, StaleConnection):
                    raise named(error.args[0], self.address) from None
                if is_loss(error):
                    raise named(error, self.address) from None
                raise
        self.told = answer[0], number
        settle(stream)
        channel.limit = self.timeout or 0.0
        if channel.limit != 0.0:
            note_limits()
        return channel

    cdef int reclaim(self, FastChannel channel) except -1:
        """Tell a server that does not know this session what it holds."""
        cdef Holding holding
        cdef list asked, handles = []
        self.take_due()
        asked = list(self.holdings.values())
        for holding in asked:
            holding.counted = 0
            handles.append(holding.handle)
        missing = channel.request(OP_INCREF, 0, None, None, handles, None, None)
        for holding in asked:
            if holding.handle in missing:
                util.info("%s", missing[holding.handle])
            else:
                holding.counted += 1
                if holding.local == 0:      # dropped meanwhile
                    self.drop(holding)
        return 0

    def connect(self):
        cdef bint was_fast = self.is_fast
        if self.other() is not None:
            self.fallback.connect()
        elif was_fast:      # else it has just connected
            Connections.connect(self)

    def lost_connection(self):
        if self.fallback is None:
            return Connections.lost_connection(self)
        return self.fallback.lost_connection()

    def forget_connection(self):
        if self.fallback is None:
            Connections.forget_connection(self)
        else:
            self.fallback.forget_connection()

    def hurry(self, double seconds):
        cdef ThreadChannel mine = self.thread_channel()
        cdef FastChannel channel
        if mine is None:
            return False
        channel = <FastChannel>mine.channel
        if channel.holder != 0 or channel.posted:
            return False
        self.timeout = seconds
        channel.limit = seconds
        note_limits()
        return True

    def stock_connection(self):
        """A thread is given one beside its channel when this is first called."""
        cdef ThreadChannel mine = self.thread_channel()
        if self.fallback is not None:
            return self.fallback.stock_connection()
        if mine is None:
            return None
        if mine.stock is None:
            mine.stock = dial(self, thread_name())
        return mine.stock

    def close(self):
        cdef Holding holding
        self.take_due()
        for holding in list(self.holdings.values()):
            holding.counted = 0     # the server takes back what this process had
        channels = self.open_channels()
        for channel in channels:
            (<FastChannel>channel).await_posted()
        if channels:
            (<FastChannel>channels[0]).say_goodbye(True)
        self.disconnect()
        if self.fallback is not None:
            self.fallback.close()

    def retire(self):
        Connections.retire(self)
        self.has_nothing()
        if self.fallback is not None:
            self.fallback.retire()

    # -- what is taken ------------------------------------------------------

    cdef void took(self) noexcept:
        """This process has taken a lock or permit: if it is killed the server is to know.

        So the session outlives the last proxy, and its connection the last thread that called.
        """
        if self.taken == 0:
            Py_INCREF(self)
        self.taken += 1

    cdef void gave(self, Py_ssize_t count) noexcept:
        if count >= self.taken:
            self.has_nothing()
        elif count > 0:
            self.taken -= count

    cdef void has_nothing(self) noexcept:
        if self.taken:
            self.taken = 0
            Py_DECREF(self)

    cdef bint is_needed(self) noexcept:
        return self.taken != 0 or len(self.holdings) != 0

    cdef uint64_t thread_number(self) except 0:
        number = getattr(self.local, "number", None)
        if number is None:
            # 24 bits of it are sent: after 16 million threads it begins anew.
            self.local.number = number = self.threads % ((1 << THREAD_BITS) - 1) + 1
            self.threads += 1
        return number

    # -- the server's memory ----------------------------------------------

    cdef void end_view(self) noexcept:
        if self.view is not None:
            self.view.usable = False

    cpdef object locate(self, Target target):
        cdef View view
        cdef Segment segment
        if self.other() is not None:
            return None
        self.channel()      # with the first one there is a view
        view = self.view
        if view.none:
            return None
        found = self.perform(OP_LOCATE, 0, target, None, None, None)
        try:
            # Without a reference the server could give the cell to another object.
            if found and self.regain(target):
                found = self.perform(OP_LOCATE, 0, target, None, None, None)
        except RemoteError:
            return None     # the object is gone again
        if found is False:
            view.none = True
        if not found or type(found) is Outcome:
            return None
        kind, number, offset, size, about = found
        if view.alive is NULL and self.segment(view, 0) is None:
            return None
        segment = self.segment(view, number)
        if segment is None or not view.usable or view is not self.view:
            return None
        segment.place(offset, size)
        return kind, segment, offset, size, about

    cdef Segment segment(self, View view, object number):
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
            return (<FastChannel>channel).attach(number)
        except BaseException as error:
            if type(error) is CallTimeout:
                raise self.after_failure(channel, error) from None
            if not channel.usable:
                self.lose(channel, channel.interrupted)
            if not isinstance(error, MemoryError) and not is_loss(error):
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
                channel.stream.attach_mailbox(segment, False)
        return 0
