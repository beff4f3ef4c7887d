"""Whole frames over one connected socket.

Two framings share one buffer: the stdlib's (a signed 32-bit big-endian length,
or -1 and an unsigned 64-bit one) and the fast dialect's 24-byte header.  This
module never looks into a body.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from fastmgr._os cimport (
    MSG_DONTWAIT, POLLIN, POLLOUT, fm_poll_one, fm_receive_timeout, fm_recv, fm_recv_spin, fm_send,
    fm_spin_wanted, fm_spinner, os_close,
)

import os
from math import ceil
from time import monotonic

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "fastmgr's wire is little-endian; this machine is not"
    #endif
    """

cdef enum:
    FIRST_CAPACITY = 2048
    BUSY_CAPACITY = 64 * 1024    # what a buffer grows to while receives fill it
    KEEP_CAPACITY = 256 * 1024   # an idle stream keeps no more than this
    TRUSTED_STEP = 64 * 1024 * 1024   # how far an announced length is believed at once


cdef inline size_t be32(const unsigned char *p) noexcept:
    return (<size_t>p[0] << 24) | (<size_t>p[1] << 16) | (<size_t>p[2] << 8) | p[3]


@cython.final
cdef class Stream:
    """One connected socket, cut into frames.

    A stream belongs to one thread at a time and owns its descriptor.

    Parameters
    ----------
    fd : int
        A connected stream socket in blocking mode; it is closed with the stream.
    limit : int, optional
        Bytes in the largest body accepted; 0 for any.
    """

    def __cinit__(self, int fd, size_t limit=0):
        self.fd = fd
        self.data = NULL
        self.limit = limit

    def __dealloc__(self):
        self.close_fd()
        free(self.data)

    # -- receiving ------------------------------------------------------

    cdef size_t _want(self) noexcept:
        """Bytes that the frame at `start` has in all, as far as is known yet."""
        cdef size_t have = self.end - self.start
        cdef const unsigned char *p = <const unsigned char *>self.data + self.start
        cdef size_t size
        if self.fast:
            if have < HEADER_SIZE:
                return HEADER_SIZE
            size = (<Header *>p).size
            return HEADER_SIZE + size if size <= <size_t>-1 - HEADER_SIZE else <size_t>-1
        if have < 4:
            return 4
        if p[0] < 0x80:
            return 4 + be32(p)
        if be32(p) != 0xffffffff:
            return <size_t>-1    # a negative length other than -1 means nothing
        if have < 12:
            return 12
        if p[4] >= 0x80:
            return <size_t>-1
        return 12 + (be32(p + 4) << 32 | be32(p + 8))

    cdef int take(self) except -9:
        """Cut the next frame off the buffer, if it is whole."""
        cdef size_t have = self.end - self.start
        cdef size_t want
        cdef size_t prefix
        if have == 0:
            return FRAME_PARTIAL
        want = self._want()
        if want == <size_t>-1:
            return FRAME_TOO_LARGE
        if self.fast:
            prefix = HEADER_SIZE
        else:
            prefix = 12 if <unsigned char>self.data[self.start] == 0xff else 4
        if self.limit and have >= prefix and want - prefix > self.limit:
            return FRAME_TOO_LARGE
        if have < want:
            return FRAME_PARTIAL
        self.rewind = self.start
        if self.fast:
            memcpy(&self.header, self.data + self.start, HEADER_SIZE)
        self.body = self.data + self.start + prefix
        self.size = want - prefix
        self.start += want
        return FRAME_READY

    cdef void put_back(self) noexcept:
        """Undo the last `take`."""
        self.start = self.rewind

    cdef int _room(self) except -1:
        """Make room to receive into, with the pending bytes moved to the front."""
        cdef size_t have = self.end - self.start
        cdef size_t want = self._want() if have else 0
        cdef size_t capacity
        cdef char *grown
        if have == 0:
            self.start = self.end = 0
        if want < FIRST_CAPACITY:
            want = FIRST_CAPACITY
        if self.filled and self.capacity < BUSY_CAPACITY and want < self.capacity * 2:
            want = self.capacity * 2
        if want > have + TRUSTED_STEP:
            # The peer's word for a length costs us no more than it has sent and a step.
            want = have + TRUSTED_STEP
        if self.start and (self.start + want > self.capacity):
            memmove(self.data, self.data + self.start, have)
            self.start, self.end = 0, have
        if want > self.capacity:
            capacity = want if want > self.capacity * 2 else self.capacity * 2
            grown = <char *>realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError(f"no memory for a frame of {want} bytes")
            self.data = grown
            self.capacity = capacity
        return 0

    cdef void tidy(self) noexcept:
        """Give a large buffer back once nothing is pending in it."""
        if self.start == self.end and self.capacity > KEEP_CAPACITY:
            free(self.data)
            self.data = NULL
            self.start = self.end = self.capacity = 0

    cdef int receive_now(self) except -9:
        """Read what has arrived, without waiting; FRAME_READY says that something came."""
        cdef ssize_t n
        if self.fd < 0:
            return FRAME_EOF
        self._room()
        n = fm_recv(self.fd, self.data + self.end, self.capacity - self.end, MSG_DONTWAIT)
        if n > 0:
            self.end += <size_t>n
            self.filled = self.end == self.capacity
            return FRAME_READY
        if n == 0:
            return FRAME_EOF
        if -n == EAGAIN or -n == EINTR:
            return FRAME_PARTIAL
        return FRAME_EOF    # reset, timed out: for a reader the peer is gone

    cdef int receive(self, bint patient, fm_spinner *spinner) except -9:
        """Wait for a whole frame; where a spinner is given, not by sleeping at once.

        FRAME_TIMEOUT comes only where a receive timeout is set on the socket,
        nothing of a frame has arrived, and the caller is not `patient`.
        """
        cdef ssize_t n
        cdef int status
        while True:
            status = self.take()
            if status != FRAME_PARTIAL:
                return status
            if self.fd < 0:
                raise OSError("handle is closed")
            self._room()
            with nogil:
                n = -EAGAIN
                if spinner is not NULL and fm_spin_wanted(spinner):
                    n = fm_recv_spin(
                        self.fd, self.data + self.end, self.capacity - self.end, spinner
                    )
                if n == -EAGAIN:
                    n = fm_recv(self.fd, self.data + self.end, self.capacity - self.end, 0)
            if n > 0:
                self.end += <size_t>n
                self.filled = self.end == self.capacity
            elif n == 0:
                return FRAME_EOF
            elif -n == EINTR:
                PyErr_CheckSignals()
            elif -n == EAGAIN:
                if self.start == self.end and not patient:
                    return FRAME_TIMEOUT
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))

    # -- sending --------------------------------------------------------

    cdef ssize_t send_now(self, const char *source, size_t size) except -2:
        """Send what goes without waiting; bytes sent, or -1 where the peer is gone."""
        cdef ssize_t n
        cdef size_t sent = 0
        while sent < size:
            n = fm_send(self.fd, source + sent, size - sent, MSG_DONTWAIT)
            if n >= 0:
                sent += <size_t>n
            elif -n == EAGAIN:
                break
            elif -n != EINTR:
                return -1
        return <ssize_t>sent

    cdef int send_all(self, const char *source, size_t size) except -1:
        """Send everything, waiting where the peer is slow."""
        cdef ssize_t n
        cdef size_t sent = 0
        cdef int ready
        if self.fd < 0:
            raise OSError("handle is closed")
        while sent < size:
            n = fm_send(self.fd, source + sent, size - sent, MSG_DONTWAIT)
            if n >= 0:
                sent += <size_t>n
            elif -n == EAGAIN:
                with nogil:
                    ready = fm_poll_one(self.fd, POLLOUT, -1)
                if ready == -EINTR:
                    PyErr_CheckSignals()
                elif ready < 0:
                    raise OSError(-ready, os.strerror(-ready))
            elif -n == EINTR:
                PyErr_CheckSignals()
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))
        return 0

    cdef void close_fd(self) noexcept:
        if self.fd >= 0:
            os_close(self.fd)
            self.fd = -1

    # -- for the Python layer (the stock wire, the handshake) ------------

    def recv_bytes(self, *, bint patient=True):
        """Return the body of the next frame.

        Raises
        ------
        EOFError
            The peer has closed the connection.
        TimeoutError
            Not patient, and nothing came within the socket's receive timeout.
        OSError
            The connection failed, or the frame is larger than the limit.
        """
        cdef int status = self.receive(patient, NULL)
        if status == FRAME_READY:
            body = PyBytes_FromStringAndSize(self.body, <Py_ssize_t>self.size)
            self.tidy()
            return body
        if status == FRAME_EOF:
            raise EOFError
        if status == FRAME_TIMEOUT:
            raise TimeoutError("nothing received in time")
        raise OSError("bad message length")

    def send_bytes(self, *bodies):
        """Send each body as one stock frame, all of them in one write."""
        cdef Py_ssize_t total = 0
        cdef bytes body
        cdef char *buffer
        cdef char *at
        for body in bodies:
            if body is None:
                raise TypeError("bytes are needed, not None")
            total += 12 + PyBytes_GET_SIZE(body)
        buffer = <char *>malloc(<size_t>total)
        if buffer == NULL:
            raise MemoryError(f"no memory for a frame of {total} bytes")
        try:
            at = buffer
            for body in bodies:
                at = _stock_frame(at, body)
            self.send_all(buffer, <size_t>(at - buffer))
        finally:
            free(buffer)

    def set_limit(self, size_t limit):
        """Accept bodies of up to `limit` bytes; 0 for any."""
        self.limit = limit

    def set_timeout(self, double seconds):
        """Let a receive that is not patient end after `seconds`; 0 for never."""
        cdef int status = fm_receive_timeout(self.fd, <long>(seconds * 1000))
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def poll(self, seconds=0.0):
        """Whether bytes of a frame are pending, or arrive within `seconds` (None: ever)."""
        cdef int ready
        cdef double until = -1.0
        cdef double left
        cdef int milliseconds = -1
        if self.start != self.end:
            return True
        if self.fd < 0:
            raise OSError("handle is closed")
        if seconds is not None:
            until = <double>monotonic() + max(<double>seconds, 0.0)
        while True:
            if seconds is not None:
                left = until - <double>monotonic()
                if left < 0.0:
                    left = 0.0
                milliseconds = <int>min(ceil(left * 1000), 1e9)
            with nogil:
                ready = fm_poll_one(self.fd, POLLIN, milliseconds)
            if ready > 0:
                return True
            if ready == -EINTR:
                PyErr_CheckSignals()
            elif ready < 0:
                raise OSError(-ready, os.strerror(-ready))
            elif seconds is not None and <double>monotonic() >= until:
                return False

    def fileno(self):
        """The descriptor.

        Raises
        ------
        OSError
            The stream is closed.
        """
        if self.fd < 0:
            raise OSError("handle is closed")
        return self.fd

    @property
    def closed(self):
        """Whether the descriptor has been closed."""
        return self.fd < 0

    def close(self):
        """Close the descriptor; closing twice does nothing."""
        self.close_fd()


cdef char *_stock_frame(char *at, bytes body) noexcept:
    """Write one stock frame at `at`; return where it ends."""
    cdef size_t size = <size_t>PyBytes_GET_SIZE(body)
    cdef int shift
    if size > 0x7fffffff:
        at[0] = at[1] = at[2] = at[3] = <char>0xff
        at += 4
        shift = 56
    else:
        shift = 24
    while shift >= 0:
        at[0] = <char>((size >> shift) & 0xff)
        at += 1
        shift -= 8
    memcpy(at, PyBytes_AS_STRING(body), size)
    return at + size
