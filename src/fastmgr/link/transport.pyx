"""The transport of a stream's bytes: a socket, or a subclass that another package brings.

A transport belongs to the thread that its stream belongs to; other threads may only close it.
"""

cimport cython
from libc.errno cimport EPERM

from fastmgr.link.system cimport (
    MSG_DONTWAIT, MSG_PEEK, fm_acknowledge, fm_await_end, fm_hung_up, fm_is_unix,
    fm_poll_one, fm_receive_timeout, fm_recv, fm_recv_fd, fm_reset_at_close, fm_send, fm_send_fd,
    fm_send_two, fm_shut_reading, fm_shutdown, fm_unread, os_close,
)

cdef class Transport:
    """A way for bytes that carries none: what a subclass cannot do, it inherits from here."""

    def __cinit__(self, *args):
        self.fd = -1

    cdef ssize_t read(self, void *into, size_t room, bint waits) noexcept nogil:
        return 0

    cdef ssize_t send(
        self, const void *first, size_t first_size, const void *second, size_t second_size
    ) noexcept nogil:
        return -EPERM

    cdef int wait(self, short events, int milliseconds) noexcept nogil:
        return fm_poll_one(self.fd, events, milliseconds)

    cdef int set_timeout(self, long milliseconds) noexcept nogil:
        return 0

    cdef ssize_t peek(self, void *into, size_t room) noexcept nogil:
        return 0

    cdef bint at_end(self) noexcept nogil:
        return False

    cdef bint is_local(self) noexcept nogil:
        return False

    cdef ssize_t send_passing(self, const void *source, size_t size, int passed) noexcept nogil:
        return -EPERM

    cdef ssize_t read_passed(self, void *into, size_t room, int *passed) noexcept nogil:
        return -EPERM

    cdef void acknowledge(self) noexcept nogil:
        pass

    cdef void shut_reading(self) noexcept nogil:
        pass

    cdef void shut_down(self) noexcept nogil:
        pass

    cdef void reset(self) noexcept nogil:
        self.close()

    cdef void close_after(self, int milliseconds) noexcept:
        self.close()

    cdef void close(self) noexcept nogil:
        self.fd = -1


@cython.final
cdef class SocketTransport(Transport):
    """A connected stream socket in blocking mode, by its descriptor."""

    def __init__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        self.close()

    cdef ssize_t read(self, void *into, size_t room, bint waits) noexcept nogil:
        return fm_recv(self.fd, into, room, 0 if waits else MSG_DONTWAIT)

    cdef ssize_t send(
        self, const void *first, size_t first_size, const void *second, size_t second_size
    ) noexcept nogil:
        if second_size == 0:
            return fm_send(self.fd, first, first_size, MSG_DONTWAIT)
        return fm_send_two(self.fd, first, first_size, second, second_size, MSG_DONTWAIT)

    cdef int set_timeout(self, long milliseconds) noexcept nogil:
        return fm_receive_timeout(self.fd, milliseconds)

    cdef ssize_t peek(self, void *into, size_t room) noexcept nogil:
        if into is NULL:
            return <ssize_t>fm_unread(self.fd)
        return fm_recv(self.fd, into, room, MSG_PEEK | MSG_DONTWAIT)

    cdef bint at_end(self) noexcept nogil:
        return fm_hung_up(self.fd)

    cdef bint is_local(self) noexcept nogil:
        return fm_is_unix(self.fd)

    cdef ssize_t send_passing(self, const void *source, size_t size, int passed) noexcept nogil:
        return fm_send_fd(self.fd, source, size, passed, MSG_DONTWAIT)

    cdef ssize_t read_passed(self, void *into, size_t room, int *passed) noexcept nogil:
        return fm_recv_fd(self.fd, into, room, passed)

    cdef void acknowledge(self) noexcept nogil:
        fm_acknowledge(self.fd)

    cdef void shut_reading(self) noexcept nogil:
        fm_shut_reading(self.fd)

    cdef void shut_down(self) noexcept nogil:
        fm_shutdown(self.fd)

    cdef void reset(self) noexcept nogil:
        fm_reset_at_close(self.fd)
        self.close()

    cdef void close_after(self, int milliseconds) noexcept:
        cdef int fd = self.fd
        self.fd = -1        # before the GIL goes: no other thread sends, or closes
        if fd >= 0:
            with nogil:
                fm_await_end(fd, milliseconds)
            os_close(fd)

    cdef void close(self) noexcept nogil:
        cdef int fd = self.fd
        self.fd = -1        # before the number can be another's
        if fd >= 0:
            os_close(fd)
