from fastmgr.link.stream cimport FLAG_ONEWAY, OP_CALL
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.server.connection cimport Conn
from fastmgr.server.driver cimport Disposal, Driver, Load
from fastmgr.server.table cimport Table
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef class Replies:
    cdef Table table
    cdef Disposal disposal
    cdef Load load

    cdef int reply(
        self, Conn conn, Driver by, uint8_t op, uint64_t handle, object payload
    ) except -1
    cdef int deliver(self, Conn conn, Driver by) except -1
    cdef int respond(self, Conn conn, object message) except -1
    cdef int note_failure(self, Conn conn, Driver by, uint8_t op, object payload) except -1
    cdef int report_failure(self, Conn conn, Driver by) except -1
    cdef str call_at_hand(self, Conn conn)
    cdef int put_any(self, Conn conn, Writer writer, object payload, bint apart) except -1

cdef object method_name(Conn conn, Reader reader)
cdef object told(Conn conn)


cdef inline bint is_oneway(Conn conn) noexcept:
    """Whether nobody waits for the reply to the connection's current request."""
    return (
        conn.stream.fast and conn.stream.header.op == OP_CALL
        and conn.stream.header.flags & FLAG_ONEWAY
    )
