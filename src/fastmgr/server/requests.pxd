"""What the frame at hand asks for."""

from fastmgr.link.stream cimport FLAG_ONEWAY, OP_CALL
from fastmgr.server.connection cimport Conn
from fastmgr.wire.reader cimport Reader

cdef object method_name(Conn conn, Reader reader)
cdef object told(Conn conn)


cdef inline bint is_oneway(Conn conn) noexcept:
    """Whether nobody waits for the reply to the connection's current request."""
    return (
        conn.stream.fast and conn.stream.header.op == OP_CALL
        and conn.stream.header.flags & FLAG_ONEWAY
    )
