"""One accepted connection, and where it is in its life."""

cimport cython

from fastmgr.kinds.waits cimport Owner
from fastmgr.link.stream cimport Stream


cdef class Responder:
    """What sends the reply that one of a server's functions gives by itself."""

    cdef int respond(self, Conn conn, object message) except -1:
        raise NotImplementedError


@cython.final
cdef class Conn(Owner):
    """One accepted connection."""

    def __init__(self, Stream stream, Responder responder):
        self.stream = stream
        self.responder = responder
        self.name = ""

    def send(self, message):
        """Reply to the current request from a server's own function.

        ``Server.shutdown`` and users' functions do ``c.send(('#RETURN', value))``.
        """
        self.responder.respond(self, message)

    cdef bint is_there(self) noexcept:
        """Whether the client is there: it may be dead, and the loop not know it yet."""
        return not self.stream.at_end()

    cdef void serve_no_more(self) noexcept:
        self.finished = True

    def close(self):
        """Close the connection, once the current request is done with."""
        self.serve_no_more()
