"""Whole frames over one connected socket, and by its mailbox where there is one.

Two framings share one buffer: the stdlib's (a signed 32-bit big-endian length,
or -1 and an unsigned 64-bit one) and the fast dialect's 24-byte header.  This
module never looks into a body.
"""

cimport cython
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_FromStringAndSize,
    PyByteArray_GET_SIZE, PyByteArray_Resize,
)
from cpython.bytes cimport (
    _PyBytes_Resize, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EPIPE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from fastmgr.memory.arena cimport Segment, fm_is_unix, fm_recv_fd, fm_send_fd
from fastmgr.link.mailbox cimport (
    FM_MAIL_ROOM, FM_MAILBOX_SIZE, fm_mail_answer, fm_mail_await, fm_mail_expect,
    fm_mail_is_there, fm_mail_post, fm_mail_shut, fm_mail_take, fm_mailbox,
)
from fastmgr.link.system cimport (
    FM_SIGNALS_MS, MSG_DONTWAIT, MSG_PEEK, POLLIN, POLLOUT, fm_acknowledge, fm_await_end,
    fm_hung_up, fm_poll_one, fm_receive_timeout, fm_recv, fm_recv_soon, fm_refused,
    fm_reset_at_close, fm_send, fm_send_two, fm_shutdown, fm_spinner, fm_unread, os_close,
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

# Seconds that whoever may have to run the handler of a signal sleeps at most.
SIGNALS_INTERVAL = FM_SIGNALS_MS / 1000.0

# What the stdlib calls the operations of replies.
KINDS = {
    <int>OP_RETURN: "#RETURN", <int>OP_ERROR: "#ERROR", <int>OP_TRACEBACK: "#TRACEBACK",
    <int>OP_PROXY: "#PROXY", <int>OP_UNSERIALIZABLE: "#UNSERIALIZABLE",
}
OPS = {kind: op for op, kind in KINDS.items()}

cdef enum:
    FIRST_CAPACITY = 2048
    BUSY_CAPACITY = 64 * 1024    # what a buffer grows to while receives fill it
    PORTION = 32 * 1024          # bytes that are sent between two looks for replies
    KEEP_CAPACITY = 256 * 1024   # an idle stream keeps no more than this
    WRITABLE_SHIFT = 63          # in a buffer's size
    ADDRESS_BITS = 47            # no process has more memory
    FEW_BUFFERS = 16
    BYTES_A_BUFFER = 64 * 1024  # the mean of more: `wire.codec` makes none smaller
    TRUSTED_STEP = 64 * 1024 * 1024   # how far an announced length is believed at once


cdef inline size_t be32(const unsigned char *p) noexcept:
    return (<size_t>p[0] << 24) | (<size_t>p[1] << 16) | (<size_t>p[2] << 8) | p[3]


cdef inline char *data_of(object buffer) noexcept:
    if PyByteArray_CheckExact(buffer):
        return PyByteArray_AS_STRING(buffer)
    return PyBytes_AS_STRING(buffer)


cdef inline size_t size_of(object buffer) noexcept:
    if PyByteArray_CheckExact(buffer):
        return <size_t>PyByteArray_GET_SIZE(buffer)
    return <size_t>PyBytes_GET_SIZE(buffer)


cdef size_t table_size(list buffers) noexcept:
    return sizeof(BufferTable) + 8 * <size_t>len(buffers)


cdef size_t write_table(char *at, size_t values, list buffers, list writable) except? 0:
    cdef BufferTable head
    cdef uint64_t size
    cdef size_t i, total = 0
    head.count = <uint64_t>len(buffers)
    head.values = values
    memcpy(at, &head, sizeof(head))
    at += sizeof(head)
    for i in range(head.count):
        size = size_of(buffers[i])
        total += size
        size |= <uint64_t>bool(writable[i]) << WRITABLE_SHIFT
        memcpy(at + 8 * i, &size, 8)
    return total


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
            if size > <size_t>-1 - HEADER_SIZE:
                return <size_t>-1
            if (<Header *>p).flags & FLAG_BUFFERS:
                return self._want_with_buffers(<const Header *>p, have)
            return HEADER_SIZE + size
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

    cdef size_t _want_with_buffers(self, const Header *header, size_t have) noexcept:
        """Bytes of a frame up to its buffers, which are received elsewhere."""
        cdef const BufferTable *head = <const BufferTable *>(header + 1)
        cdef size_t left = header.size
        if left < sizeof(BufferTable):
            return <size_t>-1
        if have < HEADER_SIZE + sizeof(BufferTable):
            return HEADER_SIZE + sizeof(BufferTable)
        left -= sizeof(BufferTable)
        if head.count == 0 or head.count > left // 8 or head.values > left - head.count * 8:
            return <size_t>-1
        if head.count > FEW_BUFFERS + left // BYTES_A_BUFFER:
            return <size_t>-1    # an object is made of each, however small it is
        return HEADER_SIZE + sizeof(BufferTable) + head.count * 8 + head.values

    cdef size_t _buffer_size(self, size_t i) noexcept:
        """The announced size of a buffer of the frame at `start`."""
        cdef uint64_t size
        memcpy(&size, self.data + self.start + HEADER_SIZE + sizeof(BufferTable) + 8 * i, 8)
        return size & ~(<uint64_t>1 << WRITABLE_SHIFT)

    cdef bint _buffers_add_up(self, size_t head) noexcept:
        """Whether what follows the first `head` bytes of the frame is its buffers."""
        cdef const Header *header = <const Header *>(self.data + self.start)
        cdef size_t left = header.size - (head - HEADER_SIZE)
        cdef size_t size, i
        for i in range((<const BufferTable *>(header + 1)).count):
            size = self._buffer_size(i)
            if size > left or size >> ADDRESS_BITS:
                return False
            left -= size
        return left == 0

    cdef bint _fill_buffers(self, size_t head) except -1:
        """Fill the buffers with what `data` has of them; whether all are whole.

        Where not, the last of `buffers` has room to receive into.  Each is made when the one
        before it is whole, and a long one grows as it arrives: what a peer has only announced
        costs no memory.

        Raises
        ------
        MemoryError
            There is no memory for one of them.
        """
        cdef size_t count = (<const BufferTable *>(self.data + self.start + HEADER_SIZE)).count
        cdef size_t at = self.start + head, made = len(self.buffers)
        cdef size_t whole = self._buffer_size(made - 1) if made else 0
        cdef size_t n
        cdef uint64_t size_and_kind
        while True:
            if self.buffer_at == whole:
                if made == count:
                    break
                memcpy(
                    &size_and_kind,
                    self.data + self.start + HEADER_SIZE + sizeof(BufferTable) + 8 * made, 8)
                whole = self._buffer_size(made)
                n = min(whole, <size_t>TRUSTED_STEP)
                if size_and_kind >> WRITABLE_SHIFT:
                    buffer = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>n)
                else:
                    buffer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>n)
                self.buffers.append(buffer)
                self.buffer_at = 0
                made += 1
            elif self.buffer_at == size_of(self.buffers[made - 1]):
                n = self.buffer_at + max(self.buffer_at, <size_t>TRUSTED_STEP)
                self._grow_buffer(min(whole, n))
            buffer = self.buffers[made - 1]
            n = min(size_of(buffer) - self.buffer_at, self.end - at)
            memcpy(data_of(buffer) + self.buffer_at, self.data + at, n)
            at += n
            self.buffer_at += n
            if self.buffer_at < size_of(buffer):
                break
        if at > self.start + head:
            # What is behind the buffers belongs to the next frame.
            memmove(self.data + self.start + head, self.data + at, self.end - at)
            self.end -= at - (self.start + head)
        return made == count and self.buffer_at == whole

    cdef int _grow_buffer(self, size_t size) except -1:
        """Let the last buffer have that size; without memory for it the frame is lost."""
        cdef PyObject *only
        self.in_buffers = False
        buffer = self.buffers.pop()
        if PyByteArray_CheckExact(buffer):
            PyByteArray_Resize(buffer, <Py_ssize_t>size)
        else:
            only = <PyObject *>buffer      # bytes are resized by their only owner
            Py_INCREF(buffer)
            buffer = None
            _PyBytes_Resize(&only, <Py_ssize_t>size)
            buffer = <object>only
            Py_DECREF(buffer)
        self.buffers.append(buffer)
        self.in_buffers = True
        return 0

    cdef int take(self) except -9:
        """Cut the next frame off the buffer, if it is whole."""
        cdef size_t have = self.end - self.start
        cdef size_t want
        cdef size_t prefix
        if have == 0:
            return FRAME_PARTIAL
        if not self.in_buffers:
            self.buffers = None
        want = self._want()
        if want == <size_t>-1:
            return FRAME_TOO_LARGE
        if self.fast:
            prefix = HEADER_SIZE
        else:
            prefix = 12 if <unsigned char>self.data[self.start] == 0xff else 4
        if self.limit and have >= prefix and self.limit < (
            (<Header *>(self.data + self.start)).size if self.fast else want - prefix
        ):
            return FRAME_TOO_LARGE
        if have < want:
            return FRAME_PARTIAL
        if self.fast and (<Header *>(self.data + self.start)).flags & FLAG_BUFFERS:
            prefix = want - <size_t>(<BufferTable *>(self.data + self.start + HEADER_SIZE)).values
            if not self.in_buffers:
                if not self._buffers_add_up(want):
                    return FRAME_TOO_LARGE
                self.buffers = []
                self.buffer_at = 0
                self.in_buffers = True
            if not self._fill_buffers(want):
                return FRAME_PARTIAL
            self.in_buffers = False
        self.rewind = self.start
        if self.fast:
            memcpy(&self.header, self.data + self.start, HEADER_SIZE)
        self.body = self.data + self.start + prefix
        self.size = want - prefix
        self.start += want
        return FRAME_READY

    cdef void untake(self) noexcept:
        """Undo the last `take`."""
        self.start = self.rewind
        self.in_buffers = self.buffers is not None

    cdef int ending(self, Header *last) noexcept:
        """How what was sent and not taken yet ends.

        `last` is the header of its last frame, be it cut off, with no operation where there is
        none; one that is cut off in its header is taken for one that follows others.
        Nothing is received.  The frames are followed from the first, for the bytes at the end of a
        frame that was sent in part may look like anything.
        """
        cdef size_t at = 0, have = 0, unread = fm_unread(self.fd)
        cdef char *data
        cdef size_t i
        memset(last, 0, HEADER_SIZE)
        if self.in_buffers:        # what `data` holds is received but for the buffers
            for i in range(
                max(len(self.buffers), 1) - 1,
                (<const BufferTable *>(self.data + self.start + HEADER_SIZE)).count,
            ):
                at += self._buffer_size(i)
            at -= self.buffer_at
            memcpy(last, self.data + self.start, HEADER_SIZE)
        else:
            have = self.end - self.start
        data = <char *>malloc(have + unread + 1)
        if data == NULL:
            last.op = 0
            return ENDS_WHOLE
        memcpy(data, self.data + self.start, have)
        if unread and fm_recv(
            self.fd, data + have, unread, MSG_PEEK | MSG_DONTWAIT
        ) != <ssize_t>unread:
            unread = 0
        have += unread
        while at < have:
            if have - at < HEADER_SIZE:
                last.op = 0
                last.flags = FLAG_FOLLOWS
                at = have + 1
                break
            memcpy(last, data + at, HEADER_SIZE)
            at += HEADER_SIZE
            if last.size > have - at:
                at = have + 1
                break
            at += last.size
        free(data)
        return ENDS_CUT_OFF if at > have else ENDS_WHOLE

    cdef int _room(self) except -1:
        """Make room to receive into, with the pending bytes moved to the front."""
        cdef size_t have = self.end - self.start
        cdef size_t want = self._want() if have else 0
        cdef size_t capacity
        cdef char *grown
        if self.in_buffers:
            buffer = self.buffers[len(self.buffers) - 1]
            self.into = data_of(buffer) + self.buffer_at
            self.room = size_of(buffer) - self.buffer_at
            return 0
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
        self.into = self.data + self.end
        self.room = self.capacity - self.end
        return 0

    cdef void _received(self, size_t n) noexcept:
        if self.in_buffers:
            self.buffer_at += n
        else:
            self.end += n
            self.filled = self.end == self.capacity

    cdef void drop_buffers(self) noexcept:
        """Give large buffers back once nothing is pending in them."""
        if not self.in_buffers:
            self.buffers = None
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
        if self.in_buffers:
            with nogil:     # much is copied
                n = fm_recv(self.fd, self.into, self.room, MSG_DONTWAIT)
        else:
            n = fm_recv(self.fd, self.into, self.room, MSG_DONTWAIT)
        if n > 0:
            self._received(<size_t>n)
            return FRAME_READY
        if n == 0:
            return FRAME_EOF
        if -n == EAGAIN or -n == EINTR:
            return FRAME_PARTIAL
        return FRAME_EOF    # reset, timed out: for a reader the peer is gone

    cdef int receive_mail(self) except -9:
        """Read the request that is in the mailbox; FRAME_EOF where that cannot be one."""
        cdef size_t n
        if self.start != self.end or self.in_buffers:
            return FRAME_EOF    # a client posts when all before has been answered
        self._room()
        n = fm_mail_take(self.mailbox, self.into, self.room)
        if n == 0:
            return FRAME_EOF
        self._received(n)
        self.by_mail = True
        return FRAME_READY

    cdef int receive_passed(self, int *passed) except -9:
        """Receive the beginning of a frame, and the descriptor that comes with it (-1: none)."""
        cdef ssize_t n
        self._room()
        while True:
            with nogil:
                n = fm_recv_fd(self.fd, self.into, self.room, passed)
                if n < 0 and fm_refused(-n):
                    n = fm_recv(self.fd, self.into, self.room, 0)
            if n > 0:
                self._received(<size_t>n)
                return FRAME_READY
            if n == 0:
                return FRAME_EOF
            if -n != EINTR and -n != EAGAIN:
                raise OSError(-n, os.strerror(-n))
            PyErr_CheckSignals()

    cdef int send_passing(self, const char *source, size_t size, int passed) noexcept:
        """Send a small frame with a descriptor to who waits for it.

        FRAME_PARTIAL says that a sandbox lets no descriptors through and nothing was sent;
        FRAME_EOF that it failed otherwise.
        """
        cdef ssize_t n = fm_send_fd(self.fd, source, size, passed, MSG_DONTWAIT)
        if n == <ssize_t>size:
            return FRAME_READY
        return FRAME_PARTIAL if n < 0 and fm_refused(<int>-n) else FRAME_EOF

    cdef int receive(self, bint patient, fm_spinner *spinner, bint spare) except -9:
        """Wait for a whole frame; where a spinner is given, not by sleeping at once.

        `spare` says whether there is a processor to spin on.

        FRAME_TIMEOUT comes where a receive timeout is set on the socket, nothing of a frame
        has arrived, and the caller is not `patient`; and when the stream's deadline has passed.
        """
        cdef ssize_t n
        cdef int status, came_by_mail = False
        cdef bint serves
        while True:
            status = self.take()
            if status != FRAME_PARTIAL:
                return status
            if self.fd < 0:
                raise OSError("handle is closed")
            if self.until != 0.0 and <double>monotonic() >= self.until:
                return FRAME_TIMEOUT
            self._room()
            # A client posts when all before has been answered.
            serves = self.serves_mail and self.start == self.end and not self.in_buffers
            with nogil:
                n = -EAGAIN
                if serves:
                    n = fm_mail_expect(
                        self.mailbox, self.into, self.room, self.fd, spinner, spare, &came_by_mail)
                elif self.by_mail and not self.serves_mail:
                    n = fm_mail_await(
                        self.mailbox, self.into, self.room, self.fd, spinner, spare)
                elif spinner is not NULL:
                    n = fm_recv_soon(self.fd, self.into, self.room, spinner, spare)
                if n == -EAGAIN:
                    n = fm_recv(self.fd, self.into, self.room, 0)
            self.by_mail = came_by_mail
            if n > 0:
                self._received(<size_t>n)
            elif n == 0:
                return FRAME_EOF
            elif -n == EINTR:
                PyErr_CheckSignals()
            elif -n == EAGAIN:
                if self.start == self.end and not patient:
                    return FRAME_TIMEOUT
                PyErr_CheckSignals()
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))

    # -- the mailbox ----------------------------------------------------

    cdef int attach_mailbox(self, Segment segment, bint serves_mail) except -1:
        """Have a mailbox beside the socket from now on; at first it is shut."""
        if segment.size < FM_MAILBOX_SIZE:
            raise OSError(f"a mailbox of {segment.size} bytes: {FM_MAILBOX_SIZE} are needed")
        self.mailbox_segment = segment
        self.serves_mail = serves_mail
        self.mailbox = <fm_mailbox *>segment.at
        return 0

    cdef int detach_mailbox(self) except -1:
        """Give the mailbox up, when nobody waits for anything in it."""
        self.mailbox = NULL
        self.mailbox_segment = None
        self.serves_mail = self.by_mail = False
        return 0

    cdef bint send_by_mail(self, const char *source, size_t size) noexcept:
        """Send a request by mail; False where it has to go over the socket.

        Only where everything sent before has been answered.
        """
        self.by_mail = self.mailbox is not NULL and fm_mail_post(self.mailbox, source, size)
        return self.by_mail

    cdef bint has_mail(self) noexcept:
        """Whether there is a request in the mailbox that the server has not taken."""
        return self.mailbox is not NULL and fm_mail_is_there(self.mailbox)

    cdef bint shut_mailbox(self) noexcept:
        """Let no request be posted until others look for one; whether there is one already."""
        return self.mailbox is not NULL and fm_mail_shut(self.mailbox)

    cdef bint answer_by_mail(self, const char *source, size_t size, list buffers) noexcept:
        """Reply to a request that came by mail; False where the reply goes over the socket."""
        self.by_mail = False
        if buffers is not None or self.unsent is not None or size > FM_MAIL_ROOM:
            size = 0
        return fm_mail_answer(self.mailbox, source, size) and size

    # -- sending --------------------------------------------------------

    cdef int send_now(self, const char *source, size_t size, list buffers) except -9:
        """Send without waiting, and keep what the peer does not take now.

        Returns
        -------
        int
            FRAME_READY: all is sent; FRAME_PARTIAL: `flush_now` has to be called when there is
            room again; FRAME_EOF: the peer is gone.
        """
        cdef ssize_t n
        cdef size_t sent = 0
        if self.by_mail and self.answer_by_mail(source, size, buffers):
            return FRAME_READY
        if self.unsent is None:
            if buffers is None:
                while sent < size:
                    n = fm_send(self.fd, source + sent, size - sent, MSG_DONTWAIT)
                    if n >= 0:
                        sent += <size_t>n
                    elif -n == EAGAIN:
                        break
                    elif -n != EINTR:
                        return FRAME_EOF
                else:
                    return FRAME_READY
            self.unsent = []
            self.unsent_at = 0
        if sent < size:
            self.unsent.append(PyBytes_FromStringAndSize(source + sent, <Py_ssize_t>(size - sent)))
        if buffers is not None:
            self.unsent += buffers
        return self.flush_now()

    cdef int flush_now(self) except -9:
        """Send of what was kept as much as goes now; the outcome is `send_now`'s."""
        cdef ssize_t n
        cdef size_t left, first_size, second_size
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
                    n = fm_send_two(
                        self.fd, first_data, first_size, second_data, second_size, MSG_DONTWAIT
                    )
                if n < 0:
                    if -n == EINTR:
                        continue
                    return FRAME_PARTIAL if -n == EAGAIN else FRAME_EOF
                self.unsent_at += <size_t>n
                while i < len(self.unsent):
                    left = size_of(self.unsent[i])
                    if self.unsent_at < left:
                        break
                    self.unsent_at -= left
                    i += 1
        finally:
            del self.unsent[:i]
        self.unsent = None
        return FRAME_READY

    cdef int send_all(self, const char *source, size_t size, list buffers) except -1:
        """Send everything, waiting where the peer is slow."""
        cdef ssize_t n
        cdef size_t sent = 0
        cdef int status = FRAME_READY
        if self.fd < 0:
            raise OSError("handle is closed")
        if buffers is not None or self.unsent is not None or self.by_mail:
            status = self.send_now(source, size, buffers)
            while status == FRAME_PARTIAL:
                self._wait_for_room()
                status = self.flush_now()
            if status == FRAME_EOF:
                self.unsent = None
                raise BrokenPipeError(EPIPE, os.strerror(EPIPE))
            return 0
        while sent < size:
            n = fm_send(self.fd, source + sent, size - sent, MSG_DONTWAIT)
            if n >= 0:
                sent += <size_t>n
            elif -n == EAGAIN:
                self._wait_for_room()
            elif -n == EINTR:
                PyErr_CheckSignals()
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))
        return 0

    cdef int _wait_for_room(self) except -1:
        cdef int ready
        with nogil:
            ready = fm_poll_one(self.fd, POLLOUT, FM_SIGNALS_MS)
        if ready == -EINTR or ready == 0:
            PyErr_CheckSignals()
        elif ready < 0:
            raise OSError(-ready, os.strerror(-ready))
        return 0

    cdef bint send_small(self, const char *source, size_t size) noexcept:
        """Send a small frame without waiting; False where nothing of it was sent.

        Nothing is sent behind bytes that are kept; what is cut off of the frame is kept.
        """
        cdef ssize_t n
        if self.fd < 0 or self.unsent is not None:
            return False
        n = fm_send(self.fd, source, size, MSG_DONTWAIT)
        if 0 < n < <ssize_t>size:
            self.unsent = [source[n:size]]
            self.unsent_at = 0
        return n > 0

    cdef size_t send_some(self, const char *source, size_t size) except? 0:
        """Send a portion without waiting, or wait until something can be sent or received."""
        cdef ssize_t n = fm_send(self.fd, source, min(size, <size_t>PORTION), MSG_DONTWAIT)
        cdef int ready
        if n >= 0:
            return <size_t>n
        if -n == EAGAIN:
            with nogil:
                ready = fm_poll_one(self.fd, POLLIN | POLLOUT, FM_SIGNALS_MS)
            if ready > 0:
                return 0
            n = ready
        if n != 0 and -n != EINTR:
            raise OSError(-n, os.strerror(-n))
        PyErr_CheckSignals()
        return 0

    # -- the connection ---------------------------------------------------

    cdef bint is_local(self) noexcept:
        """Whether the peer is on this host and can be passed descriptors."""
        return fm_is_unix(self.fd)

    cdef bint at_end(self) noexcept:
        """Whether the peer has closed, or we have, and nothing is left to receive."""
        return self.fd < 0 or fm_hung_up(self.fd)

    cdef void shut_down(self) noexcept:
        """Let both ends see the end of the connection; the descriptor stays ours."""
        fm_shutdown(self.fd)

    cdef void reset(self) noexcept:
        """Close, and have the peer see it before it has received all that was sent."""
        if self.fd >= 0:
            fm_reset_at_close(self.fd)
        self.close_fd()

    cdef void close_after(self, int milliseconds) noexcept:
        """Say that no more is sent, and close when the peer has closed or the time is up.

        No handler of a signal runs here.
        """
        cdef int fd = self.fd
        self.fd = -1        # no other thread sends, or closes it
        if fd >= 0:
            with nogil:
                fm_await_end(fd, milliseconds)
            os_close(fd)

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
            Nothing came by the stream's deadline, or, not patient, within the receive timeout.
        OSError
            The connection failed, or the frame is larger than the limit.
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
            self.send_all(buffer, <size_t>(at - buffer), None)
        finally:
            free(buffer)

    def pending(self, Py_ssize_t most=40):
        """Return what has been received of the next frame, up to `most` bytes."""
        return PyBytes_FromStringAndSize(
            self.data + self.start, min(<Py_ssize_t>(self.end - self.start), most))

    def set_limit(self, size_t limit):
        """Accept bodies of up to `limit` bytes; 0 for any."""
        self.limit = limit

    def set_timeout(self, double seconds):
        """Let a receive that is not patient end after `seconds`; 0 for never."""
        self._set_timeout(<long>(seconds * 1000))

    def look_for_signals(self, on=True):
        """Have the thread that receives look now and then whether there are signals to handle.

        What interrupts a system call is a signal that this very thread takes; Python's handlers
        run in the main thread, whichever thread took it.
        """
        self._set_timeout(FM_SIGNALS_MS if on else 0)

    def set_deadline(self, seconds):
        """Let all receives from now on be done within `seconds`; None for no such limit.

        A receive timeout has to be set as well: the stream looks at the clock when it wakes.
        """
        self.until = 0.0 if seconds is None else <double>monotonic() + <double>seconds

    cdef int _set_timeout(self, long milliseconds) except -1:
        cdef int status = fm_receive_timeout(self.fd, milliseconds)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        return 0

    cpdef acknowledge(self):
        """Over TCP: let a peer know at once what has been received, for it may wait for that."""
        fm_acknowledge(self.fd)

    def poll(self, seconds=0.0):
        """Whether bytes of a frame are pending, or arrive within `seconds` (None: ever)."""
        cdef int ready
        cdef double until = -1.0
        cdef double left
        cdef int milliseconds = FM_SIGNALS_MS
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
                milliseconds = <int>min(ceil(left * 1000), <double>FM_SIGNALS_MS)
            with nogil:
                ready = fm_poll_one(self.fd, POLLIN, milliseconds)
            if ready > 0:
                return True
            if ready < 0 and ready != -EINTR:
                raise OSError(-ready, os.strerror(-ready))
            PyErr_CheckSignals()
            if ready == 0 and seconds is not None and <double>monotonic() >= until:
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
