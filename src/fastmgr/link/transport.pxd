"""Bytes between two processes, whatever carries them."""

cdef class Transport:
    """A way for bytes.  Where its comment says nothing else, a method returns a count or -errno."""

    cdef int fd                # what a poller watches; owned; -1 once closed
    # Bytes that `read` has at once and that no poller tells of.
    cdef size_t pending

    # Receive: 0 is the end; -EAGAIN says that nothing has come, yet or within the timeout.
    cdef ssize_t read(self, void *into, size_t room, bint waits) noexcept nogil
    # Send one piece of memory and then another, as much as goes without waiting.
    cdef ssize_t send(
        self, const void *first, size_t first_size, const void *second, size_t second_size
    ) noexcept nogil
    # Wait until bytes can be received (POLLIN) or sent (POLLOUT): 1, or 0 where the time is up.
    cdef int wait(self, short events, int milliseconds) noexcept nogil
    # Limit the time that `read` waits; 0: no limit.
    cdef int set_timeout(self, long milliseconds) noexcept nogil
    # Copy bytes that have arrived and are not received; where `into` is NULL return their number.
    cdef ssize_t peek(self, void *into, size_t room) noexcept nogil
    # Whether the peer has closed and nothing is left to receive.
    cdef bint at_end(self) noexcept nogil
    # Whether the peer is on this host, so that descriptors can be passed.
    cdef bint is_local(self) noexcept nogil
    # Send and receive with a descriptor beside the first byte; -EPERM where none can be passed.
    cdef ssize_t send_passing(self, const void *source, size_t size, int passed) noexcept nogil
    cdef ssize_t read_passed(self, void *into, size_t room, int *passed) noexcept nogil
    # Tell the peer at once what was received.
    cdef void acknowledge(self) noexcept nogil
    # Let this end receive nothing more; it may still send.
    cdef void shut_reading(self) noexcept nogil
    # Let both peers see the connection's end; the descriptor stays open.
    cdef void shut_down(self) noexcept nogil
    # Close, and let the peer see that before it has received all that was sent.
    cdef void reset(self) noexcept nogil
    # Say that nothing more is sent, and close when the peer has closed or the time is up. This is
    # called with the GIL, and releases it only when no other thread can close any more.
    cdef void close_after(self, int milliseconds) noexcept
    cdef void close(self) noexcept nogil


cdef class SocketTransport(Transport):
    """A connected stream socket in blocking mode, by its descriptor."""
