"""The server's hot path."""

from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.system cimport uint8_t, uint32_t, uint64_t
from fastmgr.memory.arena cimport Arena
from fastmgr.server.connection cimport Conn
from fastmgr.server.driver cimport Driver, Handler
from fastmgr.server.load cimport Load
from fastmgr.server.loop cimport Loop
from fastmgr.server.table cimport Entry, Session, Table
from fastmgr.wire.writer cimport Writer

cdef class Gift:
    cdef uint32_t call
    cdef list keys                # of the entries a reference of which came with it; None for none
    cdef bint anonymous           # which the session does not hold
    cdef uint64_t handle          # of the primitive that it took from
    cdef Waiter waiter            # None: it took from none
    cdef object value             # which it was given
    cdef bint is_hard             # to drop on the loop: it may be a user's

cdef class Worker(Driver):
    pass

cdef class Engine(Handler):
    cdef readonly Loop loop
    cdef Load load
    cdef object server
    cdef readonly Table table
    cdef object workers
    cdef Arena arena              # None: nothing is shared
    cdef bint offers_fast         # the fast dialect is spoken to those who ask for it
    cdef list doomed              # what the next turn of the loop has dropped on a worker
    cdef readonly int disposing   # workers that are dropping objects this moment
    cdef dict proxytypes          # typeid -> "module:name" of its proxy type, or None

    cdef int end_wait(self, Conn conn) except -1
    cdef int introduce(self, Conn conn, object handshake) except -1
    cdef int dispatch(self, Conn conn, Driver by) except -1
    cdef int serve_call(self, Conn conn, Driver by) except -1
    cdef int serve_call_of(
        self, Conn conn, Entry entry, Driver by, bint carried
    ) except -1
    cdef int serve_create(self, Conn conn, Driver by) except -1
    cdef int serve_control(self, Conn conn, Driver by) except -1
    cdef int serve_incref(self, Conn conn, Driver by) except -1
    cdef int serve_locate(self, Conn conn, Driver by) except -1
    cdef int serve_attach(self, Conn conn, Driver by) except -1
    cdef int serve_release(self, Conn conn, Driver by) except -1
    cdef int work_fast(self, Conn conn) except -1
    cdef int work_stock(self, Conn conn) except -1
    cdef int serve_blocking(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1
    cdef int discard(self, Waiter waiter) except -1
    cdef int pin(self, Conn conn) except -1
    cdef int reply(
        self, Conn conn, Driver by, uint8_t op, uint64_t handle, object payload
    ) except -1
    cdef str call_at_hand(self, Conn conn)
    cdef int put_any(self, Conn conn, Writer writer, object payload) except -1
    cdef int drop_elsewhere(self, object payload) except -1
    cdef int report_failure(self, Conn conn, Driver by) except -1
    cdef Gift note_gift(self, Conn conn)
    cdef int reply_taking(
        self, Conn conn, Driver by, Waiter waiter, object value
    ) except -1
    cdef int forget_gifts(self, Conn conn, Driver by) except -1
    cdef int drop_gifts(self, list given) except -1
    cdef int forget_taking(self, Conn conn, object count) except -1
    cdef int take_back_gifts(self, Conn conn, list given, bint cut_off) except -1
    cdef int end_exchange(self, Conn conn) except -1
    cdef int dispose(self, list dead) except -1
    cdef int dispose_elsewhere(self, list dead) except -1
    cdef object perform(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    )
    cdef bint give(self, Conn conn, Entry entry, bint anonymous) except -1
    cdef tuple make_proxy(self, object c, Conn conn, Entry parent, object typeid, object result)
