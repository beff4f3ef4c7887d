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

    def close(self):
        """Close the connection, once the current request is done with."""
        self.finished = True
