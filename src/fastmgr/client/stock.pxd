"""A session in the stdlib's dialect."""

from fastmgr.client.connections cimport Channel, Connections

cdef class StockChannel(Channel):
    cdef readonly object conn
    cdef object call(self, object ident, object name, object args, object kwds)
    cdef object ask(self, tuple request)
    cdef bint is_lost(self, error) except -1

cdef class StockSession(Connections):
    cdef bint flush_asked            # the main thread is going to send what is due
    cdef bint ask_for_flush(self) noexcept

cdef object dial(Connections session, object name)
