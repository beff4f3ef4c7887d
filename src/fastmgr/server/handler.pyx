"""The loop's driver: what it does with the connections that the loop owns."""

cimport cython

from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport CLOSE, HAND_OFF, KEEP, Conn
from fastmgr.server.departures cimport Departures
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.driver cimport Handler
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.parking cimport Parking
from fastmgr.server.replies cimport Replies
from fastmgr.server.service cimport Service

from multiprocessing import util

from fastmgr.link.handshake import HANDSHAKE_LIMIT
from fastmgr.link.introduction import (
    answer_introduction, is_proved, parse_introduction, stock_is_refused,
)


@cython.final
cdef class ServerHandler(Handler):
    """What the loop asks, of the parts that answer it."""

    def __init__(
        self, hooks, Loop loop, Operations operations, Replies replies, Parking parking,
        Disposal disposal, Cells cells, Departures departures, Service service, bint offers_fast
    ):
        self.hooks = hooks
        self.table = hooks.table
        self.loop = loop
        self.operations = operations
        self.replies = replies
        self.parking = parking
        self.disposal = disposal
        self.cells = cells
        self.departures = departures
        self.service = service
        self.offers_fast = offers_fast

    cdef int begin(self) except -1:
        return self.cells.open()

    cdef int end(self) except -1:
        for conn in self.loop.conns.values():
            self.parking.end(conn)      # nobody would hear what it is given
        return self.cells.close()

    cdef int serve(self, Conn conn) except -1:
        if conn.stream.fast:
            return self.operations.serve(conn, self.loop)
        if conn.stock is not None:
            return HAND_OFF
        handshake, conn.handshake = conn.handshake, None
        if self.offers_fast and self.introduce(conn, handshake):
            return KEEP if conn.stream.fast else CLOSE
        if stock_is_refused():
            util.info("connection refused: %s", "a peer of the standard library's")
            return CLOSE
        return HAND_OFF

    cdef int introduce(self, Conn conn, object handshake) except -1:
        """Whether the first request is an introduction; if so it is answered, where it is true."""
        cdef bytes frame
        if conn.stream.size > HANDSHAKE_LIMIT:
            return 0
        frame = conn.stream.body[:conn.stream.size]
        introduced = parse_introduction(frame)
        if introduced is None:
            return 0
        if not is_proved(frame, handshake.prove):
            util.info("connection refused: the introduction is not of this handshake")
            return 1
        session_id, conn.name, thread = introduced
        conn.session = self.table.join(session_id)
        conn.belong(conn.session.number, thread)
        if conn.session.connections == 1:
            self.cells.enter(conn.session)
        answer = (
            self.hooks.instance, conn.session.connections > 1, conn.session.number,
            conn.session.place,
        )
        self.loop.send_frames(conn, [answer_introduction(frame, answer, handshake.prove)])
        conn.stream.fast = True
        return 1

    cdef int answer(self, Conn conn) except -1:
        return self.parking.answer(conn)

    cdef int leave(self, Conn conn) except -1:
        return self.departures.leave(conn)

    cdef int hand_off(self, Conn conn) except -1:
        return self.service.hand_off(conn)

    cdef int respond(self, Conn conn, object message) except -1:
        return self.replies.respond(conn, message)

    cdef int turn(self) except -1:
        return self.disposal.turn()
