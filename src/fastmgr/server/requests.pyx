"""What the frame at hand asks for."""

from fastmgr.server.connection cimport Conn
from fastmgr.wire.reader cimport Reader

from traceback import format_exc

from fastmgr.wire.methods import METHODS as _methods

cdef tuple METHODS = _methods


cdef object method_name(Conn conn, Reader reader):
    """The name of the method that is called; the reader goes on behind it."""
    cdef Py_ssize_t number = conn.stream.header.method
    if number == 0:
        name = reader.get()
        hash(name)      # here a TypeError harms nobody
        return name
    if number > len(METHODS):
        raise ValueError(f"a method of number {number}: this server knows {len(METHODS)}")
    return METHODS[number - 1]


cdef object told(Conn conn):
    """What is said of the error being handled; None where nobody hears more than of the first."""
    if conn is not None and is_oneway(conn) and (conn.failed or conn.is_gone()):
        return None
    return format_exc()
