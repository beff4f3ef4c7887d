"""Watching and serving any number of connections on one thread.

The loop touches the stream of a connection only while it owns the connection: until it hands the
connection to a worker, and again once the worker has returned it.  While a worker owns it, the loop
watches it for a hang-up alone, so it notices the death of a client whose call is still running.
"""

cimport cython
from libc.math cimport INFINITY
from posix.unistd cimport read as posix_read, write as posix_write

from fastmgr.link.mailbox cimport (
    FM_MAIL, FM_MAIL_MOST, fm_mailroom_forget, fm_mailroom_open, fm_mailroom_sleep,
    fm_mailroom_soon,
)
from fastmgr.link.stream cimport FRAME_EOF, FRAME_PARTIAL, FRAME_READY, FRAME_TOO_LARGE
from fastmgr.link.system cimport (
    FM_HANGUP, FM_READ, FM_WRITE, fm_event, fm_now_ns, fm_poller_close, fm_poller_forget,
    fm_poller_open, fm_poller_set, int64_t, os_close,
)
from fastmgr.server.connection cimport (
    CLOSE, CLOSED, HAND_OFF, HUNG_UP, KEEP, LOOP, PARK, PARKED, QUEUED, RECEIVING,
)

import os
from multiprocessing import util
from threading import get_ident
from time import monotonic
from traceback import format_exc

from fastmgr.server.driver import has_few_descriptors

cdef enum:
    ACCEPT_BATCH = 64
    FRAMES_A_LOOK = 16      # frames that the loop serves between two looks at the clock
    SHARE_NS = 1000000      # how long the loop serves one connection in one turn

# Seconds until a loop that drains looks again, if nothing happens before.
cdef double DRAIN_PAUSE = 0.02


@cython.final
cdef class Loop(Driver):
    """The descriptors of one server, and what is done when one of them is ready."""

    def __cinit__(self, *args):
        fm_poller_open(
            &self.poller, os.environ.get("FASTMGR_POLLER") == "poll" or has_few_descriptors())
        self.wake_read = self.wake_write = -1

    def __init__(self, server, listener, Load load):
        self.on_loop = True
        self.acceptor = Acceptor(server, listener)
        self.timers = Timers()
        self.conns, self.watched = {}, {}
        self.backlog, self.inbox, self.due = [], [], []
        self.load = load
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        fm_poller_set(&self.poller, self.wake_read, FM_READ, True)
        if listener is not None:
            fm_poller_set(&self.poller, listener.fileno(), FM_READ, True)

    def __dealloc__(self):
        fm_poller_close(&self.poller)
        for fd in (self.wake_read, self.wake_write):
            if fd >= 0:
                os_close(fd)

    # -- from other threads ----------------------------------------------

    cdef int wake(self) noexcept:
        cdef char byte = 0
        # The result does not matter: a pipe that is full wakes the loop, too.
        return <int>posix_write(self.wake_write, &byte, 1)

    def stop(self):
        """Make `run` return at the end of its turn."""
        self.stopping = True
        self.wake()

    def drain(self):
        """Listen no more, and make `run` return once no call is under way: each is answered.

        A call that waits for a primitive is not answered: it might wait for ever.
        """
        self.tick = self.stop_if_idle
        self.next_tick = 0.0
        self.wake()

    cdef int return_to_loop(self, Conn conn) except -1:
        """Give the connection back; the worker that has it calls this, as its last step."""
        self.inbox.append(conn)
        self.wake()
        return 0

    def finished(self, Waiter waiter):
        """Have the loop reply to the waiter's client; any thread may call this."""
        self.due.append(waiter)
        if get_ident() != self.ident:
            self.wake()

    cdef int set_timer(self, Waiter waiter) except -1:
        """Let the waiter of a connection time out at its deadline; any thread may call this."""
        if self.timers.set(waiter, len(self.conns)) and get_ident() != self.ident:
            self.wake()
        return 0

    def watch(self, int fd, callback):
        """Call `callback` once, when `fd` becomes readable or hangs up."""
        self.watched[fd] = callback
        fm_poller_set(&self.poller, fd, FM_READ | FM_HANGUP, True)

    def run(self, Handler handler not None):
        """Serve until `stop`."""
        self.ident = get_ident()
        self.handler = handler
        handler.begin()
        try:
            self.serve_all()
        finally:
            handler.end()
        for conn in self.conns.values():
            # The clients, and the workers that wait for requests, see the end of the connection.
            self.shut_mailbox(conn)
            (<Conn>conn).stream.transport.shut_down()
        fm_poller_close(&self.poller)

    cdef int serve_all(self) except -1:
        cdef fm_event events[FM_MAIL_MOST]
        cdef int n, i, timeout
        while not self.stopping:
            timeout = self.timeout_ms()
            with nogil:
                n = 0
                if timeout:
                    n = fm_mailroom_soon(
                        &self.mail, &self.poller, events, &self.spinner, self.load.may_spin)
                if n == 0:
                    n = fm_mailroom_sleep(&self.mail, &self.poller, events, timeout)
            for i in range(n if n > 0 else 0):
                try:
                    self.handle_event(events[i].fd, events[i].ready)
                except Exception:
                    self.drop_broken(self.conns.get(events[i].fd))
            try:
                self.housekeeping()
                self.handler.turn()
            except Exception:
                self.writer.reset()
                util.sub_warning("internal error in the loop:\n%s", format_exc())
        return 0

    def stop_if_idle(self):
        """Stop, unless a call is under way; let workers begin no other, and look again soon."""
        cdef Conn conn
        cdef bint idle = True
        if self.acceptor.fileno() >= 0:
            self.acceptor.resume()      # no pause is to end with a listener that is closed
            fm_poller_forget(&self.poller, self.acceptor.fileno())
            self.acceptor.listener.close()
        for conn in self.conns.values():
            if conn.place == QUEUED or conn.stream.unsent is not None:
                idle = False
            elif not conn.is_with_loop():
                idle = False
                conn.close()
                if conn.place == RECEIVING or conn.stock is not None:
                    # Its worker finds the end of what it reads. The poller would take that for the
                    # peer's end, and the call that a stock peer's worker serves would be cut off.
                    fm_poller_forget(&self.poller, conn.stream.fd)
                    conn.stream.transport.shut_reading()
        if idle:
            self.stopping = True
        # A worker does not tell when it begins to wait for a request.
        self.next_tick = 0.0
        self.acceptor.next = <double>monotonic() + DRAIN_PAUSE

    cdef int drop_broken(self, Conn conn) except -1:
        """Log the error being handled and close its connection; the others are served."""
        util.sub_warning("connection dropped by an internal error:\n%s", format_exc())
        if conn is not None and conn.is_with_loop():     # else its worker returns it
            self.drop(conn)
        return 0

    cdef int timeout_ms(self) except -2:
        """How long the poller may wait: until the next deadline, end of a pause, or tick."""
        cdef double wait = 1.0 if self.tick is not None else INFINITY
        cdef double until = min(self.timers.next, self.acceptor.next)
        if self.due or self.inbox or self.backlog:
            return 0
        if until != INFINITY:
            wait = min(wait, until - <double>monotonic())
            if wait <= 0:
                return 0
        # An hour at most: the poller's number of milliseconds has 32 bits.
        return -1 if wait == INFINITY else <int>(min(wait, 3600.0) * 1000) + 1

    cdef int housekeeping(self) except -1:
        """Do what no descriptor tells: queued and returned connections, timers, replies due."""
        cdef Conn conn
        if self.backlog:
            waiting, self.backlog = self.backlog, []
            for conn in waiting:
                try:
                    if conn.place == QUEUED:
                        conn.to_loop()
                        self.serve_frames(conn)
                except Exception:
                    self.drop_broken(conn)
        if self.inbox:
            returned, self.inbox = self.inbox, []
            for conn in returned:
                try:
                    self.take_from_worker(conn)
                except Exception:
                    self.drop_broken(conn)
        if self.timers.next != INFINITY and self.timers.next <= <double>monotonic():
            self.timers.expire(monotonic())
        while self.due:
            finished, self.due = self.due, []
            for waiter in finished:
                conn = (<Waiter>waiter).owner
                # While a worker still has the connection, the loop replies when it is returned.
                if conn.waiter is waiter and conn.place == PARKED:
                    try:
                        self.answer_parked(conn)
                    except Exception:
                        self.drop_broken(conn)
        if self.tick is not None or self.acceptor.next != INFINITY:
            self.look_at_the_clock(monotonic())
        return 0

    cdef int look_at_the_clock(self, double now) except -1:
        cdef Conn conn
        while (conn := self.acceptor.overdue(now)) is not None:
            self.drop(conn)
        if self.acceptor.again <= now:
            self.acceptor.resume()
            fm_poller_set(&self.poller, self.acceptor.fileno(), FM_READ, True)
        if self.tick is not None and now >= self.next_tick:
            self.next_tick = now + 1.0
            self.tick()
        return 0

    cdef int take_from_worker(self, Conn conn) except -1:
        """Own a connection again that a worker has returned."""
        conn.to_loop()
        if conn.closing:
            return self.drop(conn)
        if conn.is_gone():
            # The loop heard of the end first: a worker serves what the client had sent before.
            return self.give_to_worker(conn) if conn.waiter is None else self.drop(conn)
        if conn.waiter is None:
            if conn.end == HUNG_UP:     # `handle_event` had the poller forget it
                fm_poller_set(&self.poller, conn.stream.fd, FM_READ, True)
            self.read_from(conn)
            return self.serve_frames(conn)
        conn.to_parked()
        return self.answer_parked(conn) if conn.waiter.finished else 0

    cdef int handle_event(self, int fd, int ready) except -1:
        cdef Conn conn = self.conns.get(fd)
        cdef char waste[64]
        if conn is not None:
            if conn.place == LOOP:
                if conn.stream.unsent is None:
                    return self.receive(conn, ready)
                if ready & (FM_WRITE | FM_HANGUP):
                    return self.flush(conn)
            elif conn.place == PARKED:
                # Its requests wait until its call has been answered.
                if ready & FM_HANGUP:
                    return self.drop(conn)
                if conn.stream.unsent is not None:
                    return self.flush(conn)
            elif ready & FM_HANGUP and not conn.is_with_loop():
                fm_poller_forget(&self.poller, fd)
                if conn.place != RECEIVING:
                    return self.hang_up(conn)
                conn.note_hang_up()     # the worker serves what the client had sent before
        elif fd == self.wake_read:
            while posix_read(fd, waste, sizeof(waste)) == sizeof(waste):
                pass
        elif fd == self.acceptor.fileno():
            self.accept()
        elif fd in self.watched:
            fm_poller_forget(&self.poller, fd)
            self.watched.pop(fd)()
        return 0

    # -- connections -------------------------------------------------------

    cdef int accept(self) except -1:
        cdef Conn conn
        for _ in range(ACCEPT_BATCH):
            conn = self.acceptor.accept(self.handler)
            if conn is None:
                if self.acceptor.again != INFINITY:
                    fm_poller_forget(&self.poller, self.acceptor.fileno())
                return 0
            self.conns[conn.stream.fd] = conn
            fm_poller_set(&self.poller, conn.stream.fd, FM_READ, True)
            self.send_frames(conn, [conn.handshake.hello()])
            if (conn := self.acceptor.superfluous()) is not None:
                self.drop(conn)
        return 0

    def send_frames(self, Conn conn, list bodies):
        """Send frames of the stdlib's form: those of the handshake and of the introduction."""
        cdef bytes data = b"".join([len(body).to_bytes(4, "big") + body for body in bodies])
        self.send(conn, data, <size_t>len(data), None)

    cdef int receive(self, Conn conn, int ready) except -1:
        cdef int status
        if ready & FM_MAIL or conn.stream.has_mail():
            # The mail comes first: an interrupted client closes its socket after it has posted.
            status = conn.stream.receive_mail()
        else:
            status = conn.stream.receive_now()
            self.open_mailbox(conn)
        if status == FRAME_READY:
            return self.serve_frames(conn)
        return self.drop(conn) if status == FRAME_EOF else 0

    cdef int serve_frames(self, Conn conn) except -1:
        """Serve each whole frame that has arrived, until the connection has had its share."""
        cdef int status, verdict
        cdef int served = 0
        cdef int64_t end = 0
        while conn.place == LOOP and conn.stream.unsent is None:
            served += 1
            if served % FRAMES_A_LOOK == 0:
                if end == 0:
                    end = fm_now_ns() + SHARE_NS
                elif fm_now_ns() > end:
                    self.send_replies(conn)
                    if conn.place == LOOP and conn.stream.unsent is None:
                        conn.to_queue()
                        self.backlog.append(conn)
                    return 0
            status = conn.stream.take()
            if status == FRAME_PARTIAL:
                conn.stream.drop_buffers()
                break
            if status == FRAME_TOO_LARGE:
                return self.drop(conn)
            if conn.handshake is not None and not conn.handshake.done:
                self.send_frames(conn, self.acceptor.answer(conn))
                verdict = CLOSE if conn.closing else KEEP
            else:
                verdict = self.handler.serve(conn)
            if verdict == HAND_OFF:
                return self.hand_to_worker(conn)
            if verdict == CLOSE:
                self.send_replies(conn)
                return self.drop(conn)
            if verdict == PARK:
                self.send_replies(conn)
                if conn.place == CLOSED:
                    return 0
                conn.to_parked()
                return self.stop_reading(
                    conn, FM_HANGUP if conn.stream.unsent is None else FM_HANGUP | FM_WRITE)
        return self.send_replies(conn)

    cdef int answer_parked(self, Conn conn) except -1:
        """Reply to a parked call that has been finished, and go on with the connection."""
        assert conn.waiter.finished
        conn.to_loop()
        self.read_from(conn)
        if self.handler.answer(conn) == HAND_OFF:
            return self.hand_to_worker(conn)
        return self.serve_frames(conn)

    cdef int send(self, Conn conn, const char *data, size_t size, list buffers) except -1:
        """Send the bytes; the stream keeps what the peer's buffers have no room for."""
        cdef int status = conn.stream.send_now(data, size, buffers)
        if status == FRAME_EOF:
            return self.drop(conn)
        if status == FRAME_PARTIAL:
            self.stop_reading(conn, FM_WRITE)
        return 0

    cdef int send_replies(self, Conn conn) except -1:
        self.reader.buffers = None
        if self.writer.size:
            self.send(conn, self.writer.data, self.writer.size, self.writer.buffers or None)
            # Also if the connection was dropped: its replies must not go to the next one.
            self.writer.reset()
        return 0

    cdef int flush(self, Conn conn) except -1:
        cdef int status = conn.stream.flush_now()
        if status == FRAME_EOF:
            return self.drop(conn)
        if status == FRAME_PARTIAL:
            return 0
        if conn.place == PARKED:
            fm_poller_set(&self.poller, conn.stream.fd, FM_HANGUP, False)
            return 0
        self.read_from(conn)
        return self.serve_frames(conn)

    cdef int read_from(self, Conn conn) except -1:
        """Read from the connection's socket and its mailbox from now on."""
        self.open_mailbox(conn)
        fm_poller_set(&self.poller, conn.stream.fd, FM_READ, False)
        return 0

    cdef int open_mailbox(self, Conn conn) noexcept:
        """Let the client post requests, if it has a mailbox."""
        if conn.stream.mailbox is not NULL:
            fm_mailroom_open(&self.mail, conn.stream.mailbox, conn.stream.fd)
        return 0

    cdef int shut_mailbox(self, Conn conn) except -1:
        """Let the client post no request; it is not posting one now, or the connection ends."""
        fm_mailroom_forget(&self.mail, conn.stream.fd)
        conn.stream.shut_mailbox()
        return 0

    cdef int stop_reading(self, Conn conn, int interest) except -1:
        """Read nothing from the connection until `read_from`; the poller tells `interest` alone."""
        self.shut_mailbox(conn)
        fm_poller_set(&self.poller, conn.stream.fd, interest, False)
        return 0

    cdef int hand_to_worker(self, Conn conn) except -1:
        """Hand the connection to a worker, with the frame or the reply that needs one."""
        self.send_replies(conn)
        if conn.place == CLOSED:
            return 0
        if conn.undelivered is None:
            conn.stream.untake()
        self.stop_reading(conn, FM_HANGUP)
        return self.give_to_worker(conn)

    cdef int give_to_worker(self, Conn conn) except -1:
        conn.to_worker()
        try:
            return self.handler.hand_off(conn)
        except BaseException:
            conn.to_loop()      # no worker can be had: `drop_broken` closes the connection
            raise

    cdef int drop(self, Conn conn) except -1:
        """Close a connection that the loop owns; dropping twice does nothing."""
        if conn.place == CLOSED:
            return 0
        conn.to_closed()
        self.writer.reset()
        self.acceptor.forget(conn)
        self.shut_mailbox(conn)
        try:
            if conn.note_end():
                self.handler.leave(conn)
        finally:
            # Before the descriptor is closed: a copy in a forked child would keep it registered.
            fm_poller_forget(&self.poller, conn.stream.fd)
            del self.conns[conn.stream.fd]
            conn.stream.close()
            conn.stream.detach_mailbox()    # a waiter that stays in a queue may keep `conn`
            conn.in_transit = None
        return 0

    def has_clients(self):
        """Whether there are clients: connections that have proved the key."""
        return len(self.conns) > len(self.acceptor.unproven)

    def close_copies(self):
        """In a forked child: close its copies of the descriptors.  The parent's stay in service."""
        cdef Conn conn
        for conn in self.conns.values():
            conn.close_copy()
        self.conns.clear()
        self.acceptor.unproven.clear()
        if self.acceptor.listener is not None:
            self.acceptor.listener.abandon()
        fm_poller_close(&self.poller)
        for fd in (self.wake_read, self.wake_write):
            os_close(fd)
        self.wake_read = self.wake_write = -1

    cdef int hang_up(self, Conn conn) except -1:
        """The peer is gone while a worker runs its call: give back what the peer held."""
        if conn.note_end():
            self.handler.leave(conn)
            conn.stream.transport.shut_down()     # a client that was interrupted waits for the end
        return 0
