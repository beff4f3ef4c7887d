"""Encoding replies, and what the client is told of calls that get none."""

cimport cython
from cpython.object cimport Py_TYPE, PyTypeObject
from libc.string cimport memset

from fastmgr.link.message cimport begin_message, seal, undo_message
from fastmgr.link.stream cimport (
    FLAG_PICKLED, FLAG_VERSION, HEADER_SIZE, OP_ERROR, OP_FAILED, OP_PROXY, OP_RETURN,
    OP_UNSERIALIZABLE, Header, is_drained,
)
from fastmgr.link.system cimport fm_now_ns, int64_t
from fastmgr.memory.arena cimport Version
from fastmgr.memory.versions cimport stands
from fastmgr.server.connection cimport HAND_OFF, KEEP
from fastmgr.server.driver cimport Worker
from fastmgr.server.table cimport Entry, Tally, tally_at, tell

from traceback import format_exc

from fastmgr.kinds import rows
from fastmgr.link.cutter import OPS
from fastmgr.wire.methods import METHODS as _methods
from fastmgr.wire.opaque import transit

# Bytes of replies that the loop sends in one go.
cdef enum:
    BATCH_SIZE = 64 * 1024

# Exceptions that the loop pickles; filled as types are declared.
cdef set ERRORS = rows.ERRORS
cdef tuple METHODS = _methods


cdef object method_name(Conn conn, Reader reader):
    """Read the name of the method that is called."""
    cdef Py_ssize_t number = conn.stream.header.method
    if number == 0:
        name = reader.get()
        hash(name)      # let the TypeError of a name that has none come here, where it is told
        return name
    if number > len(METHODS):
        raise ValueError(f"a method of number {number}: this server knows {len(METHODS)}")
    return METHODS[number - 1]


cdef object told(Conn conn):
    """The traceback of the error being handled; None where the client is told of another."""
    if conn is not None and is_oneway(conn) and (conn.failed or conn.is_gone()):
        return None
    return format_exc()


cdef int note_version(Conn conn, Header *header) except -1:
    """Say at which version the reply was made, if that stood until the reply was encoded."""
    cdef Version reading = conn.reading
    conn.reading = None
    if header.op == OP_RETURN and header.flags == 0 and stands(reading.word, conn.version):
        header.flags = FLAG_VERSION
        header.handle = conn.version
    return 0


cdef inline void count_call(Table table, Conn conn, uint8_t op, size_t sent) noexcept:
    """Count the connection's current call, which has been made.  The caller has the GIL."""
    cdef size_t came = HEADER_SIZE + conn.stream.header.size
    cdef bint failed = op != OP_RETURN and op != OP_PROXY
    cdef Tally *tally = tally_at(table, conn.stream.header.handle)
    cdef int64_t ns
    tell(conn.tally, came, sent, failed)
    if tally is not NULL:
        tell(tally, came, sent, failed)
    if conn.began:
        ns = (fm_now_ns() - conn.began) * conn.weight
        conn.began = 0
        conn.tally.ns += ns
        if tally is not NULL:
            tally.ns += ns


@cython.final
cdef class Replies:
    """The replies to fast peers' requests."""

    def __init__(self, Table table, Disposal disposal, Load load):
        self.table = table
        self.disposal = disposal
        self.load = load

    cdef int reply(
        self, Conn conn, Driver by, uint8_t op, uint64_t handle, object payload
    ) except -1:
        """Encode a whole reply, and send it with the replies to the other frames at hand.

        HAND_OFF says that a worker has to encode it: `deliver` does.
        """
        cdef Header header
        cdef Writer writer = by.writer
        cdef int pickled = 0
        cdef size_t start
        if is_oneway(conn):
            count_call(self.table, conn, op, 0)
            return self.note_failure(conn, by, op, payload)
        if conn.failure is not None and self.report_failure(conn, by):
            conn.undelivered = (op, handle, payload)
            return HAND_OFF
        start = begin_message(writer)
        writer.pickles = 0
        writer.out_of_band = True
        if by.on_loop:
            if writer.put_compact(payload) == 0:
                pass
            elif conn.apart and writer.put_each_compact(payload) == 0:
                pass
            elif type(payload) in ERRORS and payload.args == ():
                pickled = writer.put(payload)
            else:
                undo_message(writer, start)
                conn.undelivered = (op, handle, payload)
                return HAND_OFF
        else:
            try:
                pickled = self.put_any(conn, writer, payload, conn.apart)
            except BaseException:
                op = OP_UNSERIALIZABLE
                writer.size = start
                writer.buffers = writer.writable = None
                pickled = writer.put(format_exc())
        conn.apart = False
        header.handle = handle
        header.call = conn.stream.header.call
        header.method = self.load.may_spin
        header.op = op
        header.flags = FLAG_PICKLED if pickled or writer.pickles else 0
        if conn.reading is not None:
            note_version(conn, &header)
        seal(writer, start, &header)
        if conn.stream.header.op == OP_CALL:
            count_call(self.table, conn, op, HEADER_SIZE + header.size)
        if is_drained(conn.stream) or writer.size > BATCH_SIZE or writer.buffers:
            by.send_replies(conn)
        return KEEP

    cdef int deliver(self, Conn conn, Driver by) except -1:
        """Encode the reply that the loop has left to this worker, if there is one."""
        if conn.undelivered is not None:
            (op, handle, payload), conn.undelivered = conn.undelivered, None
            conn.began = 0      # the time until a worker had the call is not the call's
            self.reply(conn, by, op, handle, payload)
        return 0

    cdef int respond(self, Conn conn, object message) except -1:
        """Send the reply that one of the server's functions has given by ``c.send``."""
        cdef Worker by = Worker()
        kind, payload = message
        conn.answered = True
        self.reply(conn, by, OPS[kind], 0, payload)
        return by.send_replies(conn)    # now: the function may end the process

    cdef int put_any(self, Conn conn, Writer writer, object payload, bint apart) except -1:
        """Encode the payload; hold the entries of proxies in it until the client has read it."""
        transit.sink = []
        try:
            outcome = writer.put_each(payload) if apart else writer.put(payload)
            if transit.sink:
                conn.in_transit = (conn.in_transit or []) + transit.sink
            return outcome
        finally:
            transit.sink = None

    # -- calls without a reply ------------------------------------------------

    cdef int note_failure(self, Conn conn, Driver by, uint8_t op, object payload) except -1:
        """A call without a reply has ended: keep its error if it is the connection's first."""
        if op != OP_RETURN:
            conn.failed += 1
            if conn.failed == 1 and not conn.is_gone():
                if op == OP_ERROR:
                    # Frames and their arguments must not live until the next call.
                    payload.__traceback__ = payload.__context__ = payload.__cause__ = None
                conn.failure = self.call_at_hand(conn), (op, payload)
                return KEEP
        if by.on_loop:
            self.disposal.doom(payload)
        return KEEP

    cdef str call_at_hand(self, Conn conn):
        """The connection's current call, in words."""
        cdef Reader reader
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        kind = name = "?"
        if entry is not None:
            # From the C structure: asking in Python could run a user's metaclass.
            kind = (<PyTypeObject *>Py_TYPE(entry.obj)).tp_name.decode().rpartition(".")[2]
        try:
            reader = Reader()
            reader.feed(conn.stream.body, conn.stream.size, None, False)
            name = str(method_name(conn, reader))[:40]
        except Exception:
            pass        # the name is pickled, or there is none: the error says so
        return f"{kind[:40]}.{name}() of object {conn.stream.header.handle:x}"

    cdef int report_failure(self, Conn conn, Driver by) except -1:
        """Say that calls without a reply have failed; return 1 if that takes a worker."""
        cdef Header header
        cdef Writer writer = by.writer
        cdef size_t start, start_of_error
        cdef int pickled
        cdef object first = conn.failure
        if first is None:
            return 0        # the loop has seen the client's end, and dropped the failure
        call, failure = first
        start = begin_message(writer)
        writer.pickles = 0
        writer.out_of_band = False
        writer.put_compact(call)        # a value of its own: it is read even if the error cannot be
        pickled = writer.put_compact(failure)
        if pickled:
            if by.on_loop:
                undo_message(writer, start)
                return 1
            start_of_error = writer.size
            try:
                self.put_any(conn, writer, failure, False)
            except BaseException:
                writer.size = start_of_error
                writer.put((<int>OP_UNSERIALIZABLE, format_exc()))
        memset(&header, 0, HEADER_SIZE)
        header.handle = <uint64_t>conn.failed
        header.call = conn.stream.header.call
        header.op = OP_FAILED
        header.flags = FLAG_PICKLED if pickled else 0
        seal(writer, start, &header)
        conn.failed = 0
        conn.failure = None
        return 0
