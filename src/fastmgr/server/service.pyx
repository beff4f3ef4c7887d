"""The workers' driver: a thread serves one connection by blocking reads."""

cimport cython
from libc.string cimport memset

from fastmgr.link.stream cimport (
    FRAME_PARTIAL, FRAME_READY, FRAME_TIMEOUT, OP_GOODBYE, OP_RELEASE,
)
from fastmgr.link.system cimport fm_spinner
from fastmgr.server.connection cimport CLOSE, HUNG_UP, PARK, Conn
from fastmgr.server.driver cimport Worker
from fastmgr.server.load cimport Load
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.replies cimport Replies

from multiprocessing import util
from traceback import format_exc

from fastmgr.kinds.waits import here
from fastmgr.server.stock_peers import Served
from fastmgr.stock.dialect import Idle

# Calls in a row that the loop could have served until a worker gives its connection back.
cdef enum:
    STREAK = 64

# Seconds without a request after which a worker gives its connection back.
cdef double WORKER_PATIENCE = 1.0


@cython.final
cdef class Service:
    """What workers do with the connections that the loop hands off."""

    def __init__(
        self, hooks, stock_peers, workers, Loop loop, Load load, Operations operations,
        Replies replies
    ):
        self.hooks = hooks
        self.stock_peers = stock_peers
        self.workers = workers
        self.loop = loop
        self.load = load
        self.operations = operations
        self.replies = replies

    cdef int hand_off(self, Conn conn) except -1:
        """Let a worker serve the connection; the loop calls this."""
        if not conn.timed:
            conn.timed = True
            conn.stream.set_timeout(WORKER_PATIENCE)
        self.workers.submit(self.work, conn.name or "stock peer", conn)
        return 0

    def work(self, Conn conn):
        """Serve one connection on the calling thread until it idles or ends.

        Returns
        -------
        bool
            Whether the thread may serve another connection: not if a user's
            object may have left something of this one in it.
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
        cdef int status, verdict
        memset(&spinner, 0, sizeof(spinner))
        self.replies.deliver(conn, by)
        while not conn.closing:
            status = conn.stream.take()
            if status == FRAME_PARTIAL:
                by.send_replies(conn)
                by.reader.buffers = None
                conn.to_receiving()
                status = conn.stream.receive(False, &spinner, self.load.may_spin)
                conn.to_serving()
            if status == FRAME_READY:
                if (
                    conn.end == HUNG_UP
                    and conn.stream.header.op != OP_RELEASE and conn.stream.header.op != OP_GOODBYE
                ):
                    # Its last request, which may take long: what it held goes back before.
                    self.loop.hang_up(conn)
                if conn.stream.unsent is not None:
                    by.send_replies(conn)    # what is served now may take long
                verdict = self.operations.serve(conn, by)
                if verdict == PARK or verdict == CLOSE:
                    by.send_replies(conn)
                if verdict == PARK:
                    conn.stream.shut_mailbox()
                    return 0
                if verdict == CLOSE:
                    conn.serve_no_more()
                conn.stream.drop_buffers()
                if conn.streak > STREAK and not self.load.may_spin and not conn.pinned:
                    # Where many are busy one loop serves them better than as many threads.
                    by.send_replies(conn)
                    conn.streak = 0
                    if not conn.stream.shut_mailbox():
                        return 0
            elif status != FRAME_TIMEOUT:
                conn.serve_no_more()
            elif not conn.pinned:
                return 0
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
