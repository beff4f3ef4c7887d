"""A transport of a Python object, so that a test can say when and how bytes come."""

cimport cython
from libc.errno cimport EAGAIN, EIO
from libc.string cimport memcpy

from fastmgr.link.system cimport POLLIN
from fastmgr.link.transport cimport Transport

cdef enum:
    PORTION = 64 * 1024     # bytes that the object is given at a time


@cython.final
cdef class PythonTransport(Transport):
    """A transport whose bytes a Python object carries.

    Parameters
    ----------
    carrier : object
        It has ``fileno()``; ``read(room)``, which returns bytes, none of them at the end, or None
        where nothing has come yet; ``send(data)``, which returns how many bytes it takes now;
        ``pending()``, how many bytes ``read`` has at once and no poller tells of; and ``close()``.
        They raise an `OSError` where the connection is lost.
    """

    cdef object carrier
    cdef long timeout       # milliseconds

    def __init__(self, carrier):
        self.carrier = carrier
        self.fd = carrier.fileno()

    cdef ssize_t read(self, void *into, size_t room, bint waits) noexcept nogil:
        cdef ssize_t n = self.move(into, room, NULL)
        while waits and n == -EAGAIN:
            n = self.wait(POLLIN, <int>self.timeout or -1)
            if n == 0:
                return -EAGAIN
            if n > 0:
                n = self.move(into, room, NULL)
        return n

    cdef ssize_t send(
        self, const void *first, size_t first_size, const void *second, size_t second_size
    ) noexcept nogil:
        if first_size == 0:
            first, first_size = second, second_size
        return self.move(NULL, min(first_size, <size_t>PORTION), first)

    cdef ssize_t move(self, void *into, size_t size, const void *source) noexcept with gil:
        """Receive into `into`, or send from `source`."""
        try:
            if source is not NULL:
                return self.carrier.send((<const char *>source)[:size]) or -EAGAIN
            data = self.carrier.read(size)
            self.pending = self.carrier.pending()
            if data is None:
                return -EAGAIN
            size = min(size, <size_t>len(data))
            memcpy(into, <const char *>data, size)
            return <ssize_t>size
        except OSError as error:
            return -<int>(error.errno or EIO)

    cdef int set_timeout(self, long milliseconds) noexcept nogil:
        self.timeout = milliseconds
        return 0

    cdef void close(self) noexcept nogil:
        self.fd = -1
        with gil:
            self.carrier.close()
