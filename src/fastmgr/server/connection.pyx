"""One accepted connection, and where it is in its life."""

cimport cython

from fastmgr.kinds.waits cimport Owner
from fastmgr.link.stream cimport Stream


@cython.final
cdef class Conn(Owner):
    """One accepted connection."""

    def __init__(self, Stream stream, server):
        self.stream = stream
        self.server = server
        self.name = ""

    def send(self, message):
        """Reply to the current request from a server's own function.

        ``Server.shutdown`` and users' functions do ``c.send(('#RETURN', value))``.
        """
        self.server._engine.reply_by_hook(self, message)

    def close(self):
        """Close the connection, once the current request is done with."""
        self.finished = True
