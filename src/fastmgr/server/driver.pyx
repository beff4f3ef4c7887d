"""What serves frames: the loop, or a worker."""

from fastmgr.server.connection cimport Conn
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer


cdef class Driver:
    """Who serves a frame: the loop, or a worker."""

    def __cinit__(self, *args):
        self.reader = Reader()
        self.writer = Writer()

    cdef int send_replies(self, Conn conn) except -1:
        """Send the replies to the connection's frames that the writer has collected."""
        raise NotImplementedError
