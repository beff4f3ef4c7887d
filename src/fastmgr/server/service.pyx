"""What the loop and the workers do with connections."""

cimport cython
from libc.string cimport memset

from fastmgr.link.stream cimport (
    FRAME_PARTIAL, FRAME_READY, FRAME_TIMEOUT, OP_GOODBYE, OP_RELEASE,
)
from fastmgr.link.system cimport fm_spinner
from fastmgr.server.connection cimport CLOSE, HAND_OFF, HUNG_UP, KEEP, PARK, Conn, Handler
from fastmgr.server.driver cimport Load, Worker
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations

from multiprocessing import util
from traceback import format_exc

from fastmgr.kinds.waits import here
from fastmgr.link.handshake import HANDSHAKE_LIMIT
from fastmgr.link.introduction import (
    answer_introduction, is_proved, parse_introduction, stock_is_refused,
)
from fastmgr.server.stock_peers import Served
from fastmgr.stock.dialect import Idle

# A worker returns its connection after so many calls in a row that the loop could have served,
cdef enum:
    STREAK = 64
# or after so many seconds without a request.
cdef double WORKER_PATIENCE = 1.0


@cython.final
cdef class Service(Handler):
    """Answers what the loop asks, mostly by the operations' parts; and what workers do."""
    cdef object hooks, stock_peers, workers
    cdef Loop loop
    cdef Operations operations
    cdef bint offers_fast       # whether a client that asks for the fast dialect is spoken to in it

    def __init__(self, stock_peers, workers, Loop loop, Operations operations, bint offers_fast):
        self.hooks = operations.hooks
        self.stock_peers = stock_peers
        self.workers = workers
        self.loop = loop
        self.operations = operations
        self.offers_fast = offers_fast

    # -- for the loop -------------------------------------------------------------

    cdef int begin(self) except -1:
        """Offer shared memory from now on: while the loop's thread lives, so does the server."""
        cdef Operations parts = self.operations
        if parts.arena is not None:
            try:
                parts.arena.open()
            except (OSError, MemoryError) as error:
                util.info("no shared memory for clients on this host: %s", error)
                parts.arena = None
        return 0

    cdef int end(self) except -1:
        for conn in self.loop.conns.values():
            self.operations.parking.end(conn)      # nobody would read what it is given
        if self.operations.arena is not None:
            self.operations.arena.close()
        return 0

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
            self.loop.acceptor.refused += 1
            return CLOSE
        return HAND_OFF

    cdef int introduce(self, Conn conn, object handshake) except -1:
        """Whether the first request is an introduction; if so, and if it is true, answer it."""
        cdef bytes frame
        if conn.stream.size > HANDSHAKE_LIMIT:
            return 0
        frame = conn.stream.body[:conn.stream.size]
        introduced = parse_introduction(frame)
        if introduced is None:
            return 0
        if not is_proved(frame, handshake.prove):
            util.info("connection refused: the introduction is not of this handshake")
            self.loop.acceptor.refused += 1
            return 1
        conn.name = introduced.name
        conn.session = self.operations.table.join(introduced.session_id)
        conn.belong(conn.session.number, introduced.thread)
        conn.tally = &conn.session.tally
        if conn.session.connections == 1:
            conn.session.process = conn.name.partition("|")[0]
            conn.session.pid, conn.session.host = introduced.pid, introduced.host
        if conn.session.connections == 1 and self.operations.arena is not None:
            # The number stays there as long as the session may work on cells.
            conn.session.place = self.operations.arena.enter(conn.session.number)
        answer = (
            self.hooks.instance, conn.session.connections > 1, conn.session.number,
            conn.session.place,
        )
        self.loop.send_frames(conn, [answer_introduction(frame, answer, handshake.prove)])
        conn.stream.fast = True
        return 1

    cdef int answer(self, Conn conn) except -1:
        return self.operations.parking.answer(conn)

    cdef int leave(self, Conn conn) except -1:
        return self.operations.leave(conn)

    cdef int respond(self, Conn conn, object message) except -1:
        return self.operations.replies.respond(conn, message)

    cdef int turn(self) except -1:
        return self.operations.disposal.turn()

    cdef int hand_off(self, Conn conn) except -1:
        if not conn.timed:
            conn.timed = True
            conn.stream.set_timeout(WORKER_PATIENCE)
        self.workers.submit(self.work, conn.name or "stock peer", conn)
        return 0

    # -- on a worker --------------------------------------------------------------

    def work(self, Conn conn):
        """Serve one connection on the calling thread until it idles or ends.

        Return whether the thread may serve another: not if a user's object may have left something
        in it.
        """
        try:
            if conn.stream.fast:
                self.serve_fast(conn)
            else:
                self.serve_stock(conn)
        except (EOFError, OSError, SystemExit):
            conn.serve_no_more()
        except BaseException:
            conn.serve_no_more()
            util.sub_warning("connection dropped by an internal error:\n%s", format_exc())
        finally:
            here.owner = None
            self.loop.return_to_loop(conn)
        return not conn.pinned

    cdef int serve_fast(self, Conn conn) except -1:
        cdef Worker by = Worker()
        cdef fm_spinner spinner
        cdef Load load = self.operations.load
        cdef int status, verdict
        memset(&spinner, 0, sizeof(spinner))
        self.operations.replies.deliver(conn, by)
        while not conn.closing:
            status = conn.stream.take()
            if status == FRAME_PARTIAL:
                by.send_replies(conn)
                by.reader.buffers = None
                conn.to_receiving()
                status = conn.stream.receive(False, &spinner, load.may_spin)
                conn.to_serving()
            if status == FRAME_READY:
                if (
                    conn.end == HUNG_UP
                    and conn.stream.header.op != OP_RELEASE and conn.stream.header.op != OP_GOODBYE
                ):
                    # Its last request may take long: give back what the client held before.
                    self.loop.hang_up(conn)
                if conn.stream.unsent is not None:
                    by.send_replies(conn)    # the next request may take long
                verdict = self.operations.serve(conn, by)
                if verdict == PARK or verdict == CLOSE:
                    by.send_replies(conn)
                if verdict == PARK:
                    conn.stream.shut_mailbox()
                    return 0
                if verdict == CLOSE:
                    conn.serve_no_more()
                conn.stream.drop_buffers()
                if (
                    conn.streak > STREAK and not load.may_spin and not conn.pinned
                    and not conn.is_gone()      # the loop would give it to a worker again
                ):
                    # Where many are busy one loop serves them better than as many threads.
                    by.send_replies(conn)
                    conn.streak = 0
                    if not conn.stream.shut_mailbox():
                        return 0
            elif status != FRAME_TIMEOUT:
                conn.serve_no_more()
            elif not conn.pinned:
                return 0
        by.send_replies(conn)       # the server may drain, and have closed it during its last call
        return 0

    cdef int serve_stock(self, Conn conn) except -1:
        if conn.stock is None:
            conn.stock = Served(conn, self.hooks.serializer)
        try:
            if not conn.introduced:
                self.stock_peers.answer_request(conn.stock)
                conn.serve_no_more()
            else:
                self.hooks.serve_client(conn.stock)
        except Idle:
            conn.introduced = True
        return 0
