"""What each operation of the fast dialect does.

The loop and the workers call `Operations.serve`.  It tells the loop HAND_OFF, before it has changed
anything, where the loop may not run what the client asks for.
"""

cimport cython
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

from fastmgr.kinds.waits cimport BUSY, Primitive
from fastmgr.link.mailbox cimport FM_MAILBOX_SIZE
from fastmgr.link.message cimport begin_message, seal
from fastmgr.link.stream cimport (
    FLAG_ANONYMOUS, FLAG_CARRIED, FLAG_FOLLOWS, FLAG_GAINS, FLAG_PICKLED, FRAME_PARTIAL,
    FRAME_READY, HEADER_SIZE, MAILBOX, OP_ATTACH, OP_CALL, OP_CONTROL, OP_CREATE, OP_GOODBYE,
    OP_INCREF, OP_LOCATE, OP_REFUSED, OP_RELEASE, OP_RETURN, OP_TRACEBACK, Header,
)
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.arena cimport KIND_NONE, KIND_VERSION, Celled, Version
from fastmgr.memory.segments cimport Segment, new_segment
from fastmgr.memory.versions cimport VERSIONS
from fastmgr.server.calls cimport (
    create as create_object, failed_creation, is_blind, keeps, may_make, note_carried, shows_values,
)
from fastmgr.server.connection cimport CLOSE, CLOSED, HAND_OFF, IN_ORDER, KEEP
from fastmgr.server.driver cimport begin_call, is_hard_to_drop, note_request
from fastmgr.server.replies cimport method_name, told
from fastmgr.server.table cimport add_tally
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

from contextlib import suppress
from multiprocessing import util
from traceback import format_exc

from fastmgr.kinds import rows
from fastmgr.kinds.waits import here

cdef enum:
    # Handles of one message that the loop serves; a worker lets other threads run after as many.
    HANDLES_AT_ONCE = 1024
    MOST_REASONS = 30       # missing handles of which a reply says why they are missing
    # What the steps of a call say besides a `Verdict`.
    NOT_CARRIED = -2
    GO_ON = -3

# Methods that a client with the object's cell runs by itself; filled as types are declared.
cdef dict CELL_CALLS = rows.CELL_CALLS


@cython.final
cdef class Operations:
    """Serving the requests of fast peers."""

    def __init__(
        self, hooks, Load load, Calls calls, Replies replies, Gifts gifts, Parking parking,
        Disposal disposal, Arena arena
    ):
        self.hooks = hooks
        self.table = hooks.table
        self.load = load
        self.calls = calls
        self.replies = replies
        self.gifts = gifts
        self.parking = parking
        self.disposal = disposal
        self.arena = arena

    cdef int serve(self, Conn conn, Driver by) except -1:
        """Serve the stream's last frame; the caller owns `conn` and `by`."""
        cdef uint8_t op = conn.stream.header.op
        note_request(self.load, conn.stream.fd, by.on_loop)
        if op == OP_CALL:
            return self.call(conn, by)
        if op == OP_RELEASE:
            return self.release(conn, by)
        if op == OP_INCREF:
            return self.incref(conn, by)
        if op == OP_LOCATE:
            return self.locate(conn, by)
        if op == OP_ATTACH:
            return self.attach(conn, by)
        if op == OP_GOODBYE:
            if conn.note_goodbye():
                self.leave(conn)
            return CLOSE
        if conn.in_transit is not None:
            self.gifts.taken(conn, by.on_loop)
        if op == OP_CREATE:
            return self.create(conn, by)
        if op == OP_CONTROL:
            return HAND_OFF if by.on_loop else self.control(conn, by)
        util.info("connection dropped: unknown operation %d", op)
        return CLOSE

    # -- calls ------------------------------------------------------------------

    cdef int call(self, Conn conn, Driver by) except -1:
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        cdef int verdict
        begin_call(conn, by)
        if conn.failed and conn.stream.header.flags & FLAG_GAINS:
            # The client raises the failure, and so could neither use nor give back what it gains.
            return self.replies.reply(conn, by, OP_REFUSED, 0, None)
        if (
            conn.stream.header.flags & FLAG_CARRIED and entry is not None and entry.known
            and entry.carries and not entry.looking
        ):
            entry.carrying += 1
            try:
                verdict = self.call_of(conn, entry, by, True)
            finally:
                entry.carrying -= 1
                assert entry.is_legal()
            if verdict != NOT_CARRIED:
                return verdict
        return self.call_of(conn, entry, by, False)

    cdef int call_of(self, Conn conn, Entry entry, Driver by, bint carried) except -1:
        """Serve a call of an entry (None: there is none); with `carried` keep its pickle unread.

        NOT_CARRIED says that the pickle has to be read, and that nothing was done.
        """
        cdef uint64_t handle = conn.stream.header.handle
        cdef object returned = None     # how many taken things the call gives back
        cdef bint pickled = conn.stream.header.flags & FLAG_PICKLED
        cdef uint8_t op = OP_RETURN
        cdef int verdict
        if entry is None or (pickled and not carried) or not (entry.known or entry.parks):
            if by.on_loop:
                return HAND_OFF
            conn.streak = 0
        else:
            conn.streak += 1
        if conn.in_transit is not None and not conn.stream.header.flags & FLAG_FOLLOWS:
            self.gifts.taken(conn, by.on_loop)
        begin_reading(conn, by, carried)
        try:
            name = method_name(conn, by.reader)
            args = by.reader.get()
            kwds = by.reader.get()
            if kwds is True:
                args, kwds = <tuple?>args
            if carried and not keeps(entry, name, args):
                return NOT_CARRIED
        except BaseException:
            return self.replies.reply(conn, by, OP_TRACEBACK, 0, told(conn))
        if entry is not None:
            if carried:
                assert entry.known and entry.carries    # nobody else may see an `Opaque`
                entry.opaque = True
            elif pickled and not shows_values(entry, name):
                entry.known = False     # it may hold anything now; `look_inside` says so otherwise
            if entry.opaque and by.on_loop and (
                not is_blind(entry.obj, name) or shows_values(entry, name)
            ):
                return HAND_OFF
            if entry.pins and not conn.pinned:
                conn.pin()
            if entry.parks:
                verdict = self.call_primitive(conn, entry, by, name, args, kwds)
                if verdict != GO_ON:
                    return verdict
                if conn.in_transit is not None and (name == "release" or name == "task_done"):
                    # What is no call's arguments makes the method raise.
                    if type(args) is tuple and args:
                        returned = (<tuple>args)[0]
                    else:
                        returned = (<dict>kwds).get("n", 1) if type(kwds) is dict else 1
        payload = perform(self.calls, conn, entry, name, args, kwds, &op, &handle)
        # The arguments must not outlive the call in this frame.
        entry = args = kwds = None
        if returned is not None and op == OP_RETURN:
            self.gifts.returned(conn, returned)
        return self.replies.reply(conn, by, op, handle, payload)

    cdef int call_primitive(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1:
        """Serve a call that may have to wait; GO_ON says that it never does."""
        if by.on_loop and not entry.known and name == "shutdown":
            return HAND_OFF     # it may drop users' items
        cdef int blocks = name in entry.names and (<Primitive>entry.obj).blocks(name)
        if blocks == BUSY:      # on the loop alone
            return HAND_OFF
        if conn.is_gone() and (
            blocks or (name == "release" or name == "consistent") and not still_holds(conn)
        ):
            return CLOSE    # nobody would release what it acquires now
        here.owner = conn
        if not blocks:
            return GO_ON
        if conn.noted != conn.stream.header.handle:
            self.table.note_parked(conn.session, entry)
            conn.noted = conn.stream.header.handle
        if entry.method_to_typeid is None or name not in entry.method_to_typeid:
            return self.parking.begin(conn, entry, by, name, args, kwds)
        # The result is to be shared: a worker waits for it.
        return HAND_OFF if by.on_loop else GO_ON

    # -- creation, and the server's functions ---------------------------------------

    cdef int create(self, Conn conn, Driver by) except -1:
        cdef bint pickled = conn.stream.header.flags & FLAG_PICKLED
        cdef bint anonymous = conn.stream.header.flags & FLAG_ANONYMOUS
        cdef Entry entry
        typeid = kwds = None
        if by.on_loop and pickled:
            return HAND_OFF
        begin_reading(conn, by, False)
        try:
            typeid = by.reader.get()
            if by.on_loop:
                registered = self.hooks.registry.get(typeid)
                if registered is None or not may_make(registered[0]):
                    return HAND_OFF
            args, kwds = call_arguments(by.reader)
            util.debug("%r requested by %s", typeid, conn.name)
            entry = create_object(self.hooks, typeid, args, kwds, not pickled, True)
            note_carried(entry)
        except BaseException as error:
            op, payload = failed_creation(self.hooks, typeid, kwds, error)
            return self.replies.reply(conn, by, op, 0, payload)
        if not self.gifts.share(conn, entry, anonymous):
            return CLOSE
        return self.replies.reply(conn, by, OP_RETURN, entry.key, tuple(entry.names))

    cdef int control(self, Conn conn, Driver by) except -1:
        """Call one of the server's public functions."""
        by.reader.feed(conn.stream.body, conn.stream.size, conn.stream.buffers, True)
        conn.answered = False
        try:
            name = by.reader.get()
            args, kwds = call_arguments(by.reader)
            function = self.hooks.public_function(name)
            by.send_replies(conn)    # the function may send its reply by itself
            result = function(conn, *args, **(kwds or {}))
        except BaseException:
            if conn.answered:
                return CLOSE    # the client would take a second reply for that to its next request
            return self.replies.reply(conn, by, OP_TRACEBACK, 0, format_exc())
        if conn.answered:
            return KEEP
        return self.replies.reply(conn, by, OP_RETURN, 0, result)

    # -- references -------------------------------------------------------------------

    cdef int incref(self, Conn conn, Driver by) except -1:
        """Give the session a reference to each object; the reply says which are gone, and why."""
        cdef size_t count = conn.stream.size // sizeof(uint64_t)
        cdef uint64_t handle
        cdef size_t i
        cdef dict missing = {}      # handle -> why, of the first
        cdef list retained = []
        if by.on_loop and count > HANDLES_AT_ONCE:
            return HAND_OFF
        if conn.is_gone():
            return CLOSE        # nobody would return these references
        for i in range(count):
            memcpy(&handle, conn.stream.body + i * sizeof(uint64_t), sizeof(uint64_t))
            if self.table.find(handle) is None and (
                not handle >> 62 or self.table.revive is None
                or self.table.revive(handle) is None
            ):
                missing[handle] = (
                    self.table.missing(handle).args[0] if len(missing) < MOST_REASONS else None)
            else:
                self.table.retain(handle)
                self.table.session_retain(conn.session, handle)
                retained.append(handle)
            let_others_run(i)
        if conn.in_transit is not None:
            self.gifts.taken_but_proxies(conn, by.on_loop)
        if not self.gifts.retain(conn, retained):
            return CLOSE
        return self.replies.reply(conn, by, OP_RETURN, 0, missing)

    cdef int release(self, Conn conn, Driver by) except -1:
        """Take references back from the session; there is no reply."""
        cdef size_t count = conn.stream.size // (2 * sizeof(uint64_t))
        cdef uint64_t pair[2]
        cdef size_t i
        cdef Entry entry
        if by.on_loop:
            if count > HANDLES_AT_ONCE:
                return HAND_OFF
            for i in range(count):
                memcpy(pair, conn.stream.body + i * sizeof(pair), sizeof(pair))
                entry = self.table.find(pair[0])
                if entry is not None and is_hard_to_drop(entry):
                    return HAND_OFF
        self.disposal.disposing += 1
        try:
            for i in range(count):
                memcpy(pair, conn.stream.body + i * sizeof(pair), sizeof(pair))
                try:
                    self.table.session_release(conn.session, pair[0], <Py_ssize_t>pair[1])
                except (KeyError, AssertionError):
                    util.debug("release of unknown handle %x", pair[0])
                let_others_run(i)
        finally:
            self.disposal.disposing -= 1
        return KEEP

    # -- what clients on this host may map ------------------------------------------

    cdef int locate(self, Conn conn, Driver by) except -1:
        """Say where an object's cell is: None if it has none, False if no client may map any."""
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        cdef Celled obj
        cdef Version version
        payload = None
        if self.arena is None or not conn.stream.transport.is_local():
            payload = False
        elif entry is not None and isinstance(entry.obj, Celled):
            obj = entry.obj
            if by.on_loop and obj.is_heavy(False):
                return HAND_OFF
            calls = CELL_CALLS.get(type(obj))       # None for a user's subclass, which wants calls
            if (
                calls is not None and calls.issubset(entry.names) and not entry.method_to_typeid
                and obj.kind != KIND_NONE and obj.settle(self.arena)
            ):
                payload = (
                    obj.kind, obj.cell.segment.number, obj.cell.offset, obj.cell.size, obj.about())
                if entry.parks:
                    self.table.note_parked(conn.session, entry)
        elif entry is not None and entry.readers is not None:
            version = entry.version_for_clients(self.arena)
            if version is not None and entry.readers is not None:
                payload = (
                    <int>KIND_VERSION, <int>VERSIONS, version.offset, sizeof(uint64_t),
                    tuple(entry.readers))
        return self.replies.reply(conn, by, OP_RETURN, 0, payload)

    cdef int attach(self, Conn conn, Driver by) except -1:
        """Pass a segment's descriptor to a client on this host."""
        cdef uint64_t number = conn.stream.header.handle
        cdef Writer writer = by.writer
        cdef Segment segment = None
        cdef Header header
        cdef size_t start
        if self.arena is not None and conn.stream.transport.is_local():
            if number != MAILBOX:
                segment = self.arena.segments.get(number)
            elif conn.stream.mailbox_segment is None:
                with suppress(OSError, MemoryError):
                    segment = new_segment(MAILBOX, FM_MAILBOX_SIZE)
        if segment is None:
            return self.replies.reply(conn, by, OP_RETURN, 0, None)
        by.send_replies(conn)
        if conn.place == CLOSED or conn.stream.unsent is not None:
            return CLOSE        # a client that asks for a segment has read all before
        start = begin_message(writer)
        writer.out_of_band = False
        writer.put_compact((segment.offset, segment.size, bool(segment.is_file)))
        memset(&header, 0, HEADER_SIZE)
        header.call = conn.stream.header.call
        header.op = OP_RETURN
        seal(writer, start, &header)
        if number != MAILBOX:
            conn.session.mapped += segment.size
        outcome = conn.stream.send_passing(writer.data, writer.size, segment.fd)
        writer.reset()
        if outcome == FRAME_PARTIAL:
            return self.replies.reply(conn, by, OP_RETURN, 0, None)
        if number == MAILBOX:
            segment.forget_fd()
            conn.stream.attach_mailbox(segment, True)
        return KEEP if outcome == FRAME_READY else CLOSE

    # -- the end of a connection, and of a session with its last one ------------------

    cdef int leave(self, Conn conn) except -1:
        """The client is gone: end its wait, take back its gifts; end the session with the last."""
        cdef Session session = conn.session
        try:
            self.parking.end(conn)
            self.gifts.left(conn)
            if conn.failure is not None:
                failure, conn.failure = conn.failure, None
                self.disposal.doom(failure)
        finally:
            if session is None:
                add_tally(&self.table.gone, &conn.own)
            conn.tally = &self.table.gone
            if session is not None:
                session.broken = session.broken or conn.end != IN_ORDER
                if self.table.leave(session):
                    self.end_session(session)
        return 0

    cdef int end_session(self, Session session) except -1:
        """Release the references of a client process; hand on what it held if it was killed."""
        cdef Entry entry
        add_tally(&self.table.gone, &session.tally)
        if self.arena is not None:
            self.arena.leave(session.place)
        if session.broken and not session.clean:
            # What a process holds that exits in order stays held, as in the stdlib.
            for key in list(session.parked):
                entry = self.table.find(key)
                if entry is not None and entry.parks:
                    (<Primitive>entry.obj).hand_on_all_of(session.number)
        return self.disposal.drop(self.table.forsake(session))


cdef inline object perform(
    Calls calls, Conn conn, Entry entry, object name, object args, object kwds, uint8_t *op,
    uint64_t *handle
):
    """Call a method of the object that `handle` is of."""
    if entry is None:
        return calls.perform(conn, conn, None, "%x" % handle[0], name, args, kwds, op, handle)
    if entry.version is not None:
        return calls.perform_versioned(conn, conn, entry, None, name, args, kwds, op, handle)
    entry.running += 1
    payload = calls.perform(conn, conn, entry, None, name, args, kwds, op, handle)
    entry.running -= 1
    return payload


cdef inline int let_others_run(size_t i) noexcept:
    """Let other threads have the GIL after each `HANDLES_AT_ONCE` steps."""
    if i % HANDLES_AT_ONCE == HANDLES_AT_ONCE - 1:
        with nogil:
            pass
    return 0


cdef inline bint still_holds(Conn conn) noexcept:
    """Whether the server has handed on nothing that a client held which is gone.

    An exception may have ended the client's call, and not its process.  Then it has said goodbye,
    has taken the replies to all calls before this one, and means what it has asked for.
    """
    cdef Session session = conn.session
    return (
        conn.end == IN_ORDER
        and not (session.ended and session.broken and not session.clean)    # see `end_session`
        and (conn.untaken == 0 or <int32_t>(conn.stream.header.call - conn.untaken) <= 0)
    )


cdef inline int begin_reading(Conn conn, Driver by, bint carried) except -1:
    """Have the reader read the frame's values; on the loop it unpickles none."""
    by.reader.feed(
        conn.stream.body, conn.stream.size, conn.stream.buffers,
        conn.stream.header.flags & FLAG_PICKLED and not by.on_loop,
    )
    by.reader.carry = carried
    return 0


cdef tuple call_arguments(Reader reader):
    """Read the arguments, and the keywords or None.

    True in the keywords' place says that the two were encoded as one value: they may share objects.
    Encoding all calls so would cost both ends a tuple for each.
    """
    args = reader.get()
    kwds = reader.get()
    return args if kwds is True else (args, kwds)
