"""Frames, whole, over one transport or by the mailbox beside it; no body is looked into."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EPIPE
from libc.math cimport ceil
from libc.stdlib cimport free, malloc

from fastmgr.link.mailbox cimport (
    FM_MAIL_LOOKS, FM_MAIL_ROOM, FM_MAILBOX_SIZE, fm_mail_answer, fm_mail_await, fm_mail_is_there,
    fm_mail_open, fm_mail_post, fm_mail_shut, fm_mail_take,
)
from fastmgr.link.system cimport (
    FM_SIGNALS_MS, POLLIN, POLLOUT, fm_look, fm_look_again, fm_look_begin, fm_look_end, fm_refused,
)
from fastmgr.link.transport cimport SocketTransport

import os
from math import inf
from struct import pack
from time import monotonic

# Seconds that a thread which may have to run the handler of a signal sleeps at most.
SIGNALS_INTERVAL = FM_SIGNALS_MS / 1000.0

cdef enum:
    PORTION = 32 * 1024     # bytes that are sent between two looks for replies


cdef int refuse(int error) except -1:
    raise OSError(error, os.strerror(error))


cdef ssize_t read_soon(Stream stream, fm_spinner *spinner, bint spare) noexcept nogil:
    """Receive what comes before it is time to sleep; else return -EAGAIN."""
    cdef fm_look look
    cdef ssize_t n = -EAGAIN
    if fm_look_begin(&look, spinner, spare):
        while n == -EAGAIN and fm_look_again(&look):
            n = stream.transport.read(stream.into, stream.room, False)
        fm_look_end(&look, n != -EAGAIN)
    return n


cdef ssize_t request_soon(Stream stream, fm_spinner *spinner, bint spare) noexcept nogil:
    """Receive as `read_soon` does, or a request by mail; the mailbox is shut before -EAGAIN."""
    cdef fm_look look
    cdef ssize_t n = -EAGAIN
    cdef bint there = False
    if fm_look_begin(&look, spinner, spare):
        fm_mail_open(stream.mailbox)
        while True:
            there = fm_mail_is_there(stream.mailbox)
            if not there and look.looks % FM_MAIL_LOOKS == 0:
                n = stream.transport.read(stream.into, stream.room, False)
            if there or n != -EAGAIN or not fm_look_again(&look):
                break
        fm_look_end(&look, there or n != -EAGAIN)
    if not there and (n != -EAGAIN or not fm_mail_shut(stream.mailbox)):
        return n
    stream.by_mail = True
    return <ssize_t>fm_mail_take(stream.mailbox, stream.into, stream.room)


@cython.final
@cython.no_gc_clear         # methods use `transport` without asking whether it is there
cdef class Stream(Cutter):
    """One connection, cut into frames.  A stream belongs to one thread at a time.

    Parameters
    ----------
    transport : Transport or int
        What carries the bytes, or the descriptor of a connected stream socket in blocking mode.
        The stream owns it and closes it.
    limit : int, optional
        Bytes in the largest body accepted; 0 for any.
    """

    def __cinit__(self, transport, size_t limit=0):
        self.transport = (
            transport if isinstance(transport, Transport) else SocketTransport(transport))
        self.fd = self.transport.fd
        self.limit = limit

    # -- receiving ------------------------------------------------------

    cdef inline int take_in(self, size_t n) except -1:
        """Count `n` bytes that were read, and read those of which no poller tells."""
        received(self, n)
        while self.transport.pending:
            self.make_room()
            n = <size_t>max(self.transport.read(self.into, self.room, False), 0)
            if n == 0:
                break
            received(self, n)
        return 0

    cdef int receive_now(self) except -9:
        """Read what has arrived, without waiting; FRAME_READY says that there was something."""
        cdef ssize_t n
        if self.fd < 0:
            return FRAME_EOF
        self.make_room()
        if self.into_buffer:
            with nogil:     # much is copied
                n = self.transport.read(self.into, self.room, False)
        else:
            n = self.transport.read(self.into, self.room, False)
        if n > 0:
            self.take_in(<size_t>n)
            return FRAME_READY
        # A lost connection is an end to its reader.
        return FRAME_PARTIAL if n == -EAGAIN or n == -EINTR else FRAME_EOF

    cdef int receive_mail(self) except -9:
        """Read the request that is in the mailbox; FRAME_EOF where the client broke the rules."""
        cdef size_t n
        if self.start != self.end or self.in_buffers:
            return FRAME_EOF    # a client posts only when all before has been answered
        self.make_room()
        n = fm_mail_take(self.mailbox, self.into, self.room)
        if n == 0:
            return FRAME_EOF
        received(self, n)
        self.by_mail = True
        return FRAME_READY

    cdef int receive_passed(self, int *passed) except -9:
        """Receive the beginning of a frame, and the descriptor that comes with it; -1 for none."""
        cdef ssize_t n
        self.make_room()
        while True:
            if self.until != 0.0 and not self.wait_in_time(POLLIN):
                continue
            with nogil:
                n = self.transport.read_passed(self.into, self.room, passed)
                if n < 0 and fm_refused(-n):
                    n = self.transport.read(self.into, self.room, True)
            if n > 0:
                self.take_in(<size_t>n)
                return FRAME_READY
            if n == 0:
                return FRAME_EOF
            if n != -EINTR and n != -EAGAIN:
                refuse(<int>-n)
            PyErr_CheckSignals()

    cdef int receive(self, bint patient, fm_spinner *spinner, bint spare) except -9:
        """Wait for a whole frame; with a `spinner` the thread looks a while before it sleeps.

        `spare` says whether there is a processor to spin on.  FRAME_TIMEOUT says that the stream's
        deadline has passed; or, where the caller is not `patient`, that nothing of a frame has
        arrived within the transport's receive timeout.
        """
        cdef ssize_t n
        cdef int status, left = 0
        cdef bint serves, asked
        while True:
            status = self.take()
            if status != FRAME_PARTIAL:
                return status
            self.check_open()
            if self.until != 0.0:
                left = self.milliseconds_left()
                if left == 0:
                    return FRAME_TIMEOUT
            self.make_room()
            # A client posts only when all before has been answered.
            serves = self.serves_mail and self.start == self.end and not self.in_buffers
            asked, self.by_mail = self.by_mail and not self.serves_mail, False
            with nogil:
                n = -EAGAIN
                if serves:
                    n = request_soon(self, spinner, spare)
                elif spinner is not NULL:
                    n = 0
                    if asked:
                        n = fm_mail_await(self.mailbox, self.into, self.room, spinner, spare)
                    if n == 0:
                        n = read_soon(self, spinner, spare)
                if n == -EAGAIN:
                    if left and patient:
                        self.transport.wait(POLLIN, left)
                    n = self.transport.read(self.into, self.room, not left or not patient)
            if n > 0:
                self.take_in(<size_t>n)
            elif n == 0:
                return FRAME_EOF
            elif n == -EAGAIN and self.start == self.end and not patient:
                return FRAME_TIMEOUT
            elif n == -EAGAIN or n == -EINTR:
                PyErr_CheckSignals()
            else:
                refuse(<int>-n)

    cdef bint ends_cut_off(self, Header *last) noexcept:
        """Whether what the peer has sent ends inside a frame (see `Cutter.is_cut_off`)."""
        cdef size_t unread = <size_t>max(self.transport.peek(NULL, 0), <ssize_t>0)
        cdef char *data = <char *>malloc(unread + 1)
        cdef bint outcome = False
        last.op = 0     # where the bytes cannot be seen there is no goodbye
        if data != NULL and (
            not unread or self.transport.peek(data, unread) == <ssize_t>unread
        ):
            outcome = self.is_cut_off(last, data, unread)
        free(data)
        return outcome

    # -- the mailbox ----------------------------------------------------

    cdef int attach_mailbox(self, Segment segment, bint serves_mail) except -1:
        """Use the mailbox in that segment from now on; at first it is shut."""
        if segment.size < FM_MAILBOX_SIZE:
            raise OSError(f"a mailbox of {segment.size} bytes: {FM_MAILBOX_SIZE} are needed")
        self.mailbox_segment = segment
        self.serves_mail = serves_mail
        self.mailbox = <fm_mailbox *>segment.at
        return 0

    cdef int detach_mailbox(self) except -1:
        """Give the mailbox up, at a time when neither side waits for anything in it."""
        self.mailbox = NULL
        self.mailbox_segment = None
        self.serves_mail = self.by_mail = False
        return 0

    cdef bint send_by_mail(self, const char *source, size_t size) noexcept:
        """Send a request by mail, when all before has been answered; False: use the socket."""
        self.by_mail = self.mailbox is not NULL and fm_mail_post(self.mailbox, source, size)
        return self.by_mail

    cdef bint has_mail(self) noexcept:
        """Whether there is a request in the mailbox that the server has not taken."""
        return self.mailbox is not NULL and fm_mail_is_there(self.mailbox)

    cdef bint shut_mailbox(self) noexcept:
        """Let no request be posted until the mailbox is opened; whether there is one already."""
        return self.mailbox is not NULL and fm_mail_shut(self.mailbox)

    cdef bint answer_by_mail(self, const char *source, size_t size, list buffers) noexcept:
        """Reply to a request that came by mail; False: the reply has to go over the socket."""
        self.by_mail = False
        if buffers is not None or self.unsent is not None or size > FM_MAIL_ROOM:
            size = 0
        return fm_mail_answer(self.mailbox, source, size) and size

    # -- sending --------------------------------------------------------

    cdef ssize_t push(self, const char *source, size_t size) noexcept:
        """Send as much as goes without waiting; -errno where the connection is lost."""
        cdef ssize_t n
        cdef size_t sent = 0
        while sent < size:
            n = self.transport.send(source + sent, size - sent, NULL, 0)
            if n >= 0:
                sent += <size_t>n
            elif n == -EAGAIN:
                break
            elif n != -EINTR:
                return n
        return <ssize_t>sent

    cdef int send_now(self, const char *source, size_t size, list buffers) except -9:
        """Send as much as goes without waiting, and keep the rest.

        FRAME_READY says that all is sent, FRAME_PARTIAL that `flush_now` is to be called when there
        is room again, FRAME_EOF that the connection is lost.
        """
        cdef ssize_t sent = 0
        if self.by_mail and self.answer_by_mail(source, size, buffers):
            return FRAME_READY
        if self.unsent is None:
            if buffers is None:
                sent = self.push(source, size)
                if sent == <ssize_t>size:
                    return FRAME_READY
                if sent < 0:
                    return FRAME_EOF
            self.unsent = []
            self.unsent_at = 0
        if sent < <ssize_t>size:
            self.unsent.append(PyBytes_FromStringAndSize(source + sent, <Py_ssize_t>size - sent))
        if buffers is not None:
            self.unsent += buffers
        return self.flush_now()

    cdef int flush_now(self) except -9:
        """Send as much of what was kept as goes now; see `send_now`."""
        cdef ssize_t n
        cdef size_t first_size, second_size
        cdef const char *first_data
        cdef const char *second_data
        cdef Py_ssize_t i = 0
        cdef object first, second
        try:
            while i < len(self.unsent):
                first = self.unsent[i]
                second = self.unsent[i + 1] if i + 1 < len(self.unsent) else b""
                first_data, first_size = data_of(first) + self.unsent_at, size_of(first)
                first_size -= self.unsent_at
                second_data, second_size = data_of(second), size_of(second)
                with nogil:     # much is copied; `first` and `second` are held here
                    n = self.transport.send(first_data, first_size, second_data, second_size)
                if n == -EINTR:
                    continue
                if n < 0:
                    return FRAME_PARTIAL if n == -EAGAIN else FRAME_EOF
                self.unsent_at += <size_t>n
                while i < len(self.unsent) and self.unsent_at >= size_of(self.unsent[i]):
                    self.unsent_at -= size_of(self.unsent[i])
                    i += 1
        finally:
            del self.unsent[:i]
        self.unsent = None
        return FRAME_READY

    cdef int send_all(self, const char *source, size_t size, list buffers) except -1:
        """Send everything; wait where the peer is slow.

        TimeoutError says that the stream's deadline has passed before all was sent.
        """
        cdef ssize_t n
        cdef int status
        self.check_open()
        if buffers is None and self.unsent is None and not self.by_mail:
            while True:
                n = self.push(source, size)
                if n == <ssize_t>size:
                    return 0
                if n < 0:
                    refuse(<int>-n)
                source += n
                size -= <size_t>n
                self.wait_in_time(POLLOUT)
        status = self.send_now(source, size, buffers)
        while status == FRAME_PARTIAL:
            self.wait_in_time(POLLOUT)
            status = self.flush_now()
        if status == FRAME_EOF:
            self.unsent = None
            raise BrokenPipeError(EPIPE, os.strerror(EPIPE))
        return 0

    cdef bint send_small(self, const char *source, size_t size) noexcept:
        """Send a small frame without waiting, and keep the rest; False where nothing was sent.

        That is so where bytes of an earlier frame are kept, which have to go first.
        """
        cdef ssize_t n
        if self.fd < 0 or self.unsent is not None:
            return False
        n = self.push(source, size)
        if 0 < n < <ssize_t>size:
            self.unsent = [source[n:size]]
            self.unsent_at = 0
        return n > 0

    cdef size_t send_some(self, const char *source, size_t size) except? 0:
        """Send a portion without waiting; or else wait until bytes can be sent or received."""
        cdef ssize_t n = self.push(source, min(size, <size_t>PORTION))
        if n < 0:
            refuse(<int>-n)
        if n == 0:
            self.wait_in_time(POLLIN | POLLOUT)
        return <size_t>n

    cdef int send_passing(self, const char *source, size_t size, int passed) noexcept:
        """Send a small frame with a descriptor to a peer that waits for it.

        FRAME_PARTIAL says that no descriptor can be passed on this host and nothing was sent,
        FRAME_EOF that the connection is lost.
        """
        cdef ssize_t n = self.transport.send_passing(source, size, passed)
        if n == <ssize_t>size:
            return FRAME_READY
        return FRAME_PARTIAL if n < 0 and fm_refused(<int>-n) else FRAME_EOF

    cdef bint wait(self, short events, int milliseconds) except -1:
        """Wait until bytes can be received or sent, a signal comes or the time is up."""
        cdef int ready
        with nogil:
            ready = self.transport.wait(events, milliseconds)
        if ready > 0:
            return True
        if ready < 0 and ready != -EINTR:
            refuse(-ready)
        PyErr_CheckSignals()
        return False

    cdef bint wait_in_time(self, short events) except -1:
        """As `wait`, until it is time to look at signals, or the deadline has passed."""
        cdef int left = FM_SIGNALS_MS if self.until == 0.0 else self.milliseconds_left()
        if left == 0:
            raise TimeoutError("nothing sent in time")
        return self.wait(events, left)

    cdef int milliseconds_left(self) except -1:
        """How long to wait now, with regard to signals and the deadline; 0: that has passed."""
        cdef double left = self.until - <double>monotonic()
        return <int>min(ceil(max(left, 0.0) * 1000), <double>FM_SIGNALS_MS)

    # -- the connection ---------------------------------------------------

    cdef bint at_end(self) noexcept:
        """Whether nothing is left to receive, since the peer has closed, or we have."""
        return self.fd < 0 or self.transport.at_end()

    cdef void reset(self) noexcept:
        """Close, and let the peer see that before it has received all that was sent."""
        self.fd = -1
        self.transport.reset()

    cdef void close_after(self, int milliseconds) noexcept:
        """Say that no more is sent; close when the peer has closed or the time is up."""
        # No signal's handler runs here.
        self.fd = -1
        self.transport.close_after(milliseconds)

    cpdef void close(self) noexcept:
        """Close the descriptor; closing twice does nothing."""
        self.fd = -1
        self.transport.close()

    cdef inline int check_open(self) except -1:
        if self.fd < 0:
            raise OSError("handle is closed")
        return 0

    # -- for Python: the stdlib's dialect, the handshake ------------------

    def recv_bytes(self, *, bint patient=True):
        """Return the body of the next frame; EOFError where the peer has closed the connection.

        TimeoutError says that nothing came in time (see `receive`), another OSError that the
        connection failed or that the frame is larger than the limit.
        """
        cdef int status = self.receive(patient, NULL, False)
        if status == FRAME_READY:
            body = PyBytes_FromStringAndSize(self.body, <Py_ssize_t>self.size)
            self.drop_buffers()
            return body
        if status == FRAME_EOF:
            raise EOFError
        if status == FRAME_TIMEOUT:
            raise TimeoutError("nothing received in time")
        raise OSError("bad message length")

    def send_bytes(self, *bodies):
        """Send each body as one stock frame, all of them in one write."""
        cdef bytes body, frames
        cdef list parts = []
        for body in bodies:
            if body is None:
                raise TypeError("bytes are needed, not None")
            parts.append(
                pack("!i", len(body)) if len(body) <= 0x7fffffff else pack("!iQ", -1, len(body)))
            parts.append(body)
        frames = b"".join(parts)
        self.send_all(PyBytes_AS_STRING(frames), <size_t>PyBytes_GET_SIZE(frames), None)

    def pending(self, Py_ssize_t most=40):
        """Return what has been received of the next frame, up to `most` bytes."""
        return PyBytes_FromStringAndSize(
            self.data + self.start, min(<Py_ssize_t>(self.end - self.start), most))

    def set_limit(self, size_t limit):
        """Accept bodies of up to `limit` bytes; 0 for any."""
        self.limit = limit

    def set_deadline(self, seconds):
        """Let all sends and receives from now on be done within `seconds`; None: any time."""
        self.until = 0.0 if seconds is None else <double>monotonic() + <double>seconds

    def set_end(self, double until):
        """Set the deadline to a moment of the monotonic clock; 0 for none."""
        self.until = until

    cpdef int set_timeout(self, double seconds) except -1:
        """Wake a thread that receives after so long (0: never), to look at signals."""
        cdef int status = self.transport.set_timeout(<long>(seconds * 1000))
        return refuse(-status) if status < 0 else 0

    cpdef acknowledge(self):
        """Over TCP: tell the peer at once what has been received; the peer may wait for that."""
        self.transport.acknowledge()

    def poll(self, seconds=0.0):
        """Whether bytes of a frame are here, or arrive within `seconds` (None: at any time)."""
        cdef double until, left
        if self.start != self.end:
            return True
        self.check_open()
        until = inf if seconds is None else <double>monotonic() + <double>seconds
        while True:
            left = max(until - <double>monotonic(), 0.0)
            if self.wait(POLLIN, <int>ceil(min(left * 1000, <double>FM_SIGNALS_MS))):
                return True
            if <double>monotonic() >= until:
                return False

    def fileno(self):
        """Return the descriptor; OSError where the stream is closed."""
        self.check_open()
        return self.fd

    @property
    def closed(self):
        """Whether the descriptor has been closed."""
        return self.fd < 0
