"""What clients on this host may map: they ask where a cell is, and for its segment."""

cimport cython
from libc.string cimport memset

from fastmgr.link.mailbox cimport FM_MAILBOX_SIZE
from fastmgr.link.message cimport begin_message, seal
from fastmgr.link.stream cimport (
    FRAME_PARTIAL, FRAME_READY, HEADER_SIZE, MAILBOX, OP_RETURN, Header,
)
from fastmgr.link.system cimport uint64_t
from fastmgr.memory.cells cimport KIND_NONE, Celled
from fastmgr.memory.segments cimport Segment, new_segment
from fastmgr.server.connection cimport CLOSE, CLOSED, HAND_OFF, KEEP
from fastmgr.server.table cimport Entry
from fastmgr.wire.writer cimport Writer

from contextlib import suppress
from multiprocessing import util

from fastmgr.kinds import rows

# Methods that clients call without a call; filled as types are declared.
cdef dict CELL_CALLS = rows.CELL_CALLS


@cython.final
cdef class Cells:
    """The server's arena, if it has one, as its clients see it."""

    def __init__(self, Arena arena, Table table, Replies replies):
        self.arena = arena
        self.table = table
        self.replies = replies

    cdef int open(self) except -1:
        """The loop's thread begins: while it lives, so does the server."""
        if self.arena is not None:
            try:
                self.arena.open()
            except (OSError, MemoryError) as error:
                util.info("no shared memory for clients on this host: %s", error)
                self.arena = None
        return 0

    cdef int close(self) except -1:
        if self.arena is not None:
            self.arena.close()
        return 0

    cdef int enter(self, Session session) except -1:
        """Let the session's number be seen, as long as what it holds is its own."""
        if self.arena is not None:
            session.place = self.arena.enter(session.number)
        return 0

    cdef int leave(self, Session session) except -1:
        if self.arena is not None:
            self.arena.leave(session.place)
        return 0

    cdef int locate(self, Conn conn, Driver by) except -1:
        """Say where a client on this host finds an object's cell.

        The reply is None for an object that has none, and False where no client can have any.
        """
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        cdef Celled obj
        payload = None
        if self.arena is None or not conn.stream.transport.is_local():
            payload = False
        elif entry is not None and isinstance(entry.obj, Celled):
            obj = entry.obj
            if by.on_loop and obj.is_heavy(False):
                return HAND_OFF
            calls = CELL_CALLS.get(type(obj))       # a user's subclass wants to see its calls
            if (
                calls is not None and calls.issubset(entry.names) and not entry.method_to_typeid
                and obj.kind != KIND_NONE and obj.settle(self.arena)
            ):
                payload = (
                    obj.kind, obj.cell.segment.number, obj.cell.offset, obj.cell.size, obj.about())
                if entry.parks:
                    self.table.note_parked(conn.session, entry)
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
            return CLOSE        # who asks for a segment waits for nothing else
        start = begin_message(writer)
        writer.out_of_band = False
        writer.put_compact((segment.offset, segment.size, bool(segment.is_file)))
        memset(&header, 0, HEADER_SIZE)
        header.call = conn.stream.header.call
        header.op = OP_RETURN
        seal(writer, start, &header)
        outcome = conn.stream.send_passing(writer.data, writer.size, segment.fd)
        writer.reset()
        if outcome == FRAME_PARTIAL:
            return self.replies.reply(conn, by, OP_RETURN, 0, None)
        if number == MAILBOX:
            segment.forget_fd()
            conn.stream.attach_mailbox(segment, True)
        return KEEP if outcome == FRAME_READY else CLOSE
