"""What serves frames, a loop or a worker, and what a loop asks of the rest of the server."""

cimport cython

from fastmgr.server.connection cimport Conn, Responder
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


@cython.final
cdef class Worker(Driver):
    """A thread that serves one connection by blocking reads."""

    cdef int send_replies(self, Conn conn) except -1:
        if self.writer.size or conn.stream.unsent is not None:
            conn.stream.send_all(self.writer.data, self.writer.size, self.writer.buffers or None)
            self.writer.reset()
        return 0


cdef class Handler(Responder):
    """What the loop asks of the server's other parts."""

    cdef int begin(self) except -1:
        """The loop's thread begins."""
        raise NotImplementedError

    cdef int end(self) except -1:
        """The loop's thread ends, for whatever reason."""
        raise NotImplementedError

    cdef int serve(self, Conn conn) except -1:
        """Serve the stream's last frame; return a `Verdict`."""
        raise NotImplementedError

    cdef int answer(self, Conn conn) except -1:
        """Reply to the parked call, which is finished; return a `Verdict`."""
        raise NotImplementedError

    cdef int leave(self, Conn conn) except -1:
        """The peer is gone: return what it held."""
        raise NotImplementedError

    cdef int hand_off(self, Conn conn) except -1:
        """Let a worker serve the connection until the worker gives it back."""
        raise NotImplementedError

    cdef int turn(self) except -1:
        """The loop has served all that was ready."""
        raise NotImplementedError
