"""Accepting, authenticating and watching any number of connections on one thread.

The loop owns a connection until it hands it to a worker, and again once the worker has returned
it; only then does the loop touch its stream.  While a worker has it the loop watches for the
peer's hang-up alone, so a client that dies is noticed even while its call is still running.
"""

cimport cython
from posix.unistd cimport read as posix_read, write as posix_write

from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.mailbox cimport (
    FM_MAIL, FM_MAIL_MOST, fm_mailroom_forget, fm_mailroom_open, fm_mailroom_sleep,
    fm_mailroom_soon,
)
from fastmgr.link.stream cimport FRAME_EOF, FRAME_PARTIAL, FRAME_READY, FRAME_TOO_LARGE, Stream
from fastmgr.link.system cimport (
    FM_HANGUP, FM_READ, FM_WRITE, fm_event, fm_now_ns, fm_poller_close,
    fm_poller_forget, fm_poller_open, fm_poller_set, fm_share_heap, int64_t, os_close,
)
from fastmgr.server.connection cimport (
    CLOSE, CLOSED, HAND_OFF, HUNG_UP, KEEP, LOOP, PARK, PARKED, QUEUED, RECEIVING, Conn, Responder,
)
from fastmgr.server.driver cimport Driver
from fastmgr.server.load cimport Load
from fastmgr.server.timers cimport Timers

import errno
import os
import resource
from multiprocessing import AuthenticationError, util
from threading import get_ident
from time import monotonic
from traceback import format_exc

from fastmgr.link.handshake import FAILURE, HANDSHAKE_LIMIT, Challenger, Garbage

cdef enum:
    ACCEPT_BATCH = 64
    FRAMES_A_LOOK = 16      # that are served between two looks at the clock
    SHARE_NS = 1000000      # of a turn of the loop, for each connection

# Connections that have yet to prove the key; the oldest go first when there are more.
cdef int MOST_UNPROVEN = 1024
cdef double FOREVER = float("inf")
# Seconds without accepting when descriptors have run out.
cdef double ACCEPT_PAUSE = 0.1


# With fewer descriptors than these a server makes do without those that only make it faster.
cdef int MANY_DESCRIPTORS = 32


def has_few_descriptors():
    """Whether this process may open so few files that its clients need all of them."""
    return 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < MANY_DESCRIPTORS


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


@cython.final
cdef class Loop(Driver):
    """The descriptors of one server and what to do when they are ready.

    Parameters
    ----------
    server : Server
        Gives ``authkey`` and ``handshake_timeout`` (seconds).
    listener : Listener or None
        Where connections arrive.
    """

    def __cinit__(self, *args):
        cdef int status = fm_poller_open(
            &self.poller, os.environ.get("FASTMGR_POLLER") == "poll" or has_few_descriptors())
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        self.wake_read = self.wake_write = -1

    def __init__(self, server, listener, Load load):
        self.on_loop = True
        self.server = server
        self.listener = listener
        self.conns = {}
        self.unproven = {}
        self.watched = {}
        self.backlog = []
        self.inbox = []
        self.due = []
        self.timers = Timers()
        self.load = load
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(
            os, "pipe2") else _nonblocking_pipe()
        fm_poller_set(&self.poller, self.wake_read, FM_READ, True)
        if listener is not None:
            fm_poller_set(&self.poller, listener.fileno(), FM_READ, True)
            self.accepting = True

    def __dealloc__(self):
        fm_poller_close(&self.poller)
        for fd in (self.wake_read, self.wake_write):
            if fd >= 0:
                os_close(fd)

    # -- from other threads ----------------------------------------------

    cdef int wake(self) noexcept:
        cdef char byte = 0
        # A full pipe wakes the loop as well as one more byte would.
        return <int>posix_write(self.wake_write, &byte, 1)

    def stop(self):
        """Let `run` return soon."""
        self.stopping = True
        self.wake()

    cdef int return_to_loop(self, Conn conn) except -1:
        """A worker is done with `conn` for now; only to be called by that worker."""
        self.inbox.append(conn)
        self.wake()
        return 0

    def finished(self, Waiter waiter):
        """A waiter of one of the connections has been finished, by whatever thread."""
        self.due.append(waiter)
        if get_ident() != self.ident:
            self.wake()

    cdef int set_timer(self, Waiter waiter) except -1:
        """Let a waiter of one of the connections time out at its deadline."""
        if self.timers.set(waiter, len(self.conns)) and get_ident() != self.ident:
            self.wake()
        return 0

    # -- set-up ------------------------------------------------------------

    def watch(self, int fd, callback):
        """Call `callback` once when `fd` becomes readable or hangs up."""
        self.watched[fd] = callback
        fm_poller_set(&self.poller, fd, FM_READ | FM_HANGUP, True)

    def set_tick(self, callback):
        """Call `callback` about once a second."""
        self.tick = callback

    # -- the loop ----------------------------------------------------------

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
            # Clients, and workers of ours that wait for them, learn that it is over.
            self.shut_mailbox(conn)
            (<Conn>conn).stream.shut_down()
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

    cdef int drop_broken(self, Conn conn) except -1:
        """In an `except`: one connection's trouble must not end the others' service."""
        util.sub_warning("connection dropped by an internal error:\n%s", format_exc())
        if conn is not None and conn.is_with_loop():     # else the worker returns it
            self.drop(conn)
        return 0

    cdef int timeout_ms(self) except -2:
        """How long the poller may wait: to the next deadline, pause's end or tick."""
        cdef double wait = 1.0 if self.tick is not None else -1.0
        cdef double until
        cdef Conn oldest
        if not self.accepting and self.listener is not None:
            wait = ACCEPT_PAUSE
        if self.due or self.inbox or self.backlog:
            return 0
        if self.timers.next != FOREVER:
            until = self.timers.next - <double>monotonic()
            if until <= 0:
                return 0
            if wait < 0 or until < wait:
                wait = until
        if self.unproven:
            oldest = next(iter(self.unproven))
            until = oldest.deadline - <double>monotonic()
            if until < 0:
                until = 0
            if wait < 0 or until < wait:
                wait = until
        # An hour at the most: what is farther off would not fit the poller's milliseconds.
        return -1 if wait < 0 else <int>(min(wait, 3600.0) * 1000) + 1

    cdef int housekeeping(self) except -1:
        cdef double now
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
        if self.timers.next != FOREVER and self.timers.next <= <double>monotonic():
            self.timers.expire(monotonic())
        while self.due:
            finished, self.due = self.due, []
            for waiter in finished:
                conn = (<Waiter>waiter).owner
                # A connection that a worker still has comes by the inbox.
                if conn.waiter is waiter and conn.place == PARKED:
                    try:
                        self.answer_parked(conn)
                    except Exception:
                        self.drop_broken(conn)
        if self.unproven or not self.accepting or self.tick is not None:
            now = monotonic()
            while self.unproven:
                conn = next(iter(self.unproven))
                if conn.deadline > now:
                    break
                self.drop(conn)
            if not self.accepting and self.listener is not None and now >= self.accept_again:
                self.accepting = True
                fm_poller_set(&self.poller, self.listener.fileno(), FM_READ, True)
            if self.tick is not None and now >= self.next_tick:
                self.next_tick = now + 1.0
                self.tick()
        return 0

    cdef int take_from_worker(self, Conn conn) except -1:
        """Own a connection again that a worker has given back."""
        conn.to_loop()
        if conn.closing or conn.is_gone():
            return self.drop(conn)
        if conn.waiter is None:
            if conn.end == HUNG_UP:     # the poller was told to forget it
                fm_poller_set(&self.poller, conn.stream.fd, FM_READ, True)
            self.read_from(conn)
            return self.serve_frames(conn)
        conn.to_parked()
        if conn.waiter.finished:
            return self.answer_parked(conn)
        return 0

    cdef int handle_event(self, int fd, int ready) except -1:
        cdef Conn conn = self.conns.get(fd)
        cdef char waste[64]
        cdef int status
        if conn is not None:
            if conn.place == PARKED:
                # Nothing that it sends concerns us before its call is answered.
                if ready & FM_HANGUP:
                    return self.drop(conn)
                if conn.stream.unsent is not None:
                    status = conn.stream.flush_now()
                    if status == FRAME_EOF:
                        return self.drop(conn)
                    if status == FRAME_READY:
                        self.set_interest(conn, FM_HANGUP)
                return 0
            if not conn.is_with_loop():
                if ready & FM_HANGUP:
                    fm_poller_forget(&self.poller, fd)
                    if conn.place == RECEIVING:
                        conn.note_hang_up()     # the worker sees what was sent before
                    else:
                        self.hang_up(conn)
                return 0
            if conn.stream.unsent is not None:
                if ready & (FM_WRITE | FM_HANGUP):
                    self.flush(conn)
                return 0
            return self.receive(conn, ready)
        if fd == self.wake_read:
            while posix_read(fd, waste, sizeof(waste)) == sizeof(waste):
                pass
        elif self.listener is not None and fd == self.listener.fileno():
            self.accept_burst()
        elif fd in self.watched:
            fm_poller_forget(&self.poller, fd)
            self.watched.pop(fd)()
        return 0

    # -- connections -------------------------------------------------------

    cdef int accept_burst(self) except -1:
        cdef Conn conn
        cdef Stream stream
        for _ in range(ACCEPT_BATCH):
            try:
                sock = self.listener.accept_socket()
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The listener stays readable, so waiting on it would spin.
                    util.info("cannot accept: %s; again in %g s", error, ACCEPT_PAUSE)
                    self.accepting = False
                    self.accept_again = <double>monotonic() + ACCEPT_PAUSE
                    fm_poller_forget(&self.poller, self.listener.fileno())
                    return 0
                if self.stopping or self.listener.fileno() < 0:
                    return 0
                continue    # the peer gave up before it was accepted
            stream = Stream(sock.detach(), HANDSHAKE_LIMIT)
            conn = Conn(stream, self.handler)
            conn.challenger = Challenger(self.server.authkey)
            conn.deadline = <double>monotonic() + <double>self.server.handshake_timeout
            self.conns[stream.fd] = conn
            self.unproven[conn] = None
            fm_poller_set(&self.poller, stream.fd, FM_READ, True)
            self.send_frames(conn, [conn.challenger.hello()])
            if len(self.unproven) > MOST_UNPROVEN:
                self.drop(next(iter(self.unproven)))
        return 0

    def send_frames(self, Conn conn, list bodies):
        """Send small stock frames: the handshake's and the introduction's."""
        cdef bytes data = b"".join([len(body).to_bytes(4, "big") + body for body in bodies])
        self.send(conn, data, <size_t>len(data), None)

    cdef int receive(self, Conn conn, int ready) except -1:
        cdef int status
        if conn.place == QUEUED:
            return 0
        if ready & FM_MAIL or conn.stream.has_mail():
            # Before what the socket may have: that is the end of who posted and was interrupted.
            status = conn.stream.receive_mail()
        else:
            status = conn.stream.receive_now()
            self.open_mailbox(conn)
        if status == FRAME_READY:
            return self.serve_frames(conn)
        if status == FRAME_EOF:
            return self.drop(conn)
        return 0

    cdef int serve_frames(self, Conn conn) except -1:
        """Serve every whole frame that has arrived, as far as the connection's share goes."""
        cdef int status, verdict
        cdef int served = 0
        cdef int64_t end = 0
        while conn.place == LOOP and conn.stream.unsent is None:
            served += 1
            if served % FRAMES_A_LOOK == 0:
                if end == 0:
                    end = fm_now_ns() + SHARE_NS
                elif fm_now_ns() > end:
                    return self.postpone(conn)
            status = conn.stream.take()
            if status == FRAME_PARTIAL:
                conn.stream.drop_buffers()
                break
            if status == FRAME_TOO_LARGE:
                return self.drop(conn)
            if conn.challenger is not None:
                verdict = self.prove(conn)
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

    cdef int postpone(self, Conn conn) except -1:
        """Let the others be served before what more has arrived."""
        self.send_replies(conn)
        if conn.place == LOOP and conn.stream.unsent is None:
            conn.to_queue()
            self.backlog.append(conn)
        return 0

    cdef int answer_parked(self, Conn conn) except -1:
        """Reply to a parked call that has been finished, and go on with the connection."""
        cdef int verdict
        assert conn.waiter.finished
        conn.to_loop()
        self.read_from(conn)
        verdict = self.handler.answer(conn)
        if verdict == HAND_OFF:
            return self.hand_to_worker(conn)
        return self.serve_frames(conn)

    cdef int prove(self, Conn conn) except -1:
        """One frame of the handshake."""
        cdef bytes frame = (<const char *>conn.stream.body)[:conn.stream.size]
        try:
            replies = conn.challenger.feed(frame)
        except AuthenticationError as error:
            util.info("connection refused: %s", error)
            self.send_frames(conn, [FAILURE])
            return CLOSE
        except Garbage as error:
            util.info("connection dropped: %s", error)
            return CLOSE
        if replies:
            self.send_frames(conn, replies)
        if conn.challenger.done:
            conn.handshake, conn.challenger = conn.challenger, None
            conn.stream.limit = 0
            conn.stream.acknowledge()
            del self.unproven[conn]
        return KEEP

    cdef int send(self, Conn conn, const char *data, size_t size, list buffers) except -1:
        """Send, and keep for later what the peer does not take now."""
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
            # A connection that is dropped meanwhile leaves nothing for another.
            self.writer.reset()
        return 0

    cdef int flush(self, Conn conn) except -1:
        cdef int status = conn.stream.flush_now()
        if status == FRAME_EOF:
            return self.drop(conn)
        if status == FRAME_PARTIAL:
            return 0
        self.read_from(conn)
        return self.serve_frames(conn)

    cdef int set_interest(self, Conn conn, int interest) except -1:
        fm_poller_set(&self.poller, conn.stream.fd, interest, False)
        return 0

    cdef int read_from(self, Conn conn) except -1:
        """Read from the connection from now on."""
        self.open_mailbox(conn)
        return self.set_interest(conn, FM_READ)

    cdef int open_mailbox(self, Conn conn) noexcept:
        """Let requests come by mail, too, if there is a mailbox."""
        if conn.stream.mailbox is not NULL:
            fm_mailroom_open(&self.mail, conn.stream.mailbox, conn.stream.fd)
        return 0

    cdef int shut_mailbox(self, Conn conn) except -1:
        """Let nothing come by mail; the client is not posting, or it is at an end."""
        fm_mailroom_forget(&self.mail, conn.stream.fd)
        conn.stream.shut_mailbox()
        return 0

    cdef int stop_reading(self, Conn conn, int interest) except -1:
        """Read no more from the connection until `read_from`."""
        self.shut_mailbox(conn)
        return self.set_interest(conn, interest)

    cdef int hand_to_worker(self, Conn conn) except -1:
        """Hand the connection to a worker, with the frame or the reply that needs it."""
        self.send_replies(conn)
        if conn.place == CLOSED:
            return 0
        if conn.undelivered is None:
            conn.stream.untake()
        self.stop_reading(conn, FM_HANGUP)
        conn.to_worker()
        try:
            return self.handler.hand_off(conn)
        except BaseException:
            conn.to_loop()      # there is no worker: the loop drops it
            raise

    cdef int drop(self, Conn conn) except -1:
        """Close a connection that the loop owns; dropping twice does nothing."""
        if conn.place == CLOSED:
            return 0
        conn.to_closed()
        self.writer.reset()
        self.unproven.pop(conn, None)
        self.shut_mailbox(conn)
        try:
            if conn.note_end():
                self.handler.leave(conn)
        finally:
            # Before close: a forked child's copy would keep the registration.
            fm_poller_forget(&self.poller, conn.stream.fd)
            del self.conns[conn.stream.fd]
            conn.stream.close_fd()
            conn.stream.detach_mailbox()    # a dead waiter in a queue may keep `conn` for long
            conn.in_transit = None
        return 0

    def has_clients(self):
        """Whether there are clients: who has yet to prove the key is none."""
        return len(self.conns) > len(self.unproven)

    def close_copies(self):
        """Close a forked child's copies of the descriptors; the parent's stay in service."""
        cdef Conn conn
        for conn in self.conns.values():
            conn.close_copy()
        self.conns.clear()
        self.unproven.clear()
        if self.listener is not None:
            self.listener.abandon()
        fm_poller_close(&self.poller)
        for fd in (self.wake_read, self.wake_write):
            os_close(fd)
        self.wake_read = self.wake_write = -1

    cdef int hang_up(self, Conn conn) except -1:
        """The peer is gone while a worker is busy with its call: return what it held."""
        if conn.note_end():
            self.handler.leave(conn)
            conn.stream.shut_down()     # a peer that was interrupted waits for it
        return 0


def share_heap():
    """In a process that is a server's alone: let its threads allocate from one heap.

    They take turns with the interpreter's lock anyway. `MALLOC_ARENA_MAX` in the environment
    prevails.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        fm_share_heap()


def _nonblocking_pipe():
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
