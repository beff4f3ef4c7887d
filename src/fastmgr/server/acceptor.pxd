cimport cython

from fastmgr.server.connection cimport Conn, Responder


@cython.final
cdef class Acceptor:
    cdef object listener          # None: the server accepts connections by itself
    cdef object server            # has the key, and says how long a handshake may take
    cdef dict unproven            # Conn -> by when it must have proved the key, oldest first
    cdef double again             # when a pause without accepting ends; infinite: there is none
    cdef double next              # when there is something to do though nothing arrives

    cdef int fileno(self) except -2
    cdef Conn accept(self, Responder responder)
    cdef list answer(self, Conn conn)
    cdef Conn superfluous(self)
    cdef Conn overdue(self, double now)
    cdef int forget(self, Conn conn) except -1
    cdef int resume(self) except -1
    cdef int set_next(self) except -1
