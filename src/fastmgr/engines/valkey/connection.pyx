# cython: auto_pickle=False
"""One connection with a server: requests are sent, replies received, in order.

A connection is one thread's.  Where an exception comes between a request and its reply the
connection is closed, for the next reply on it would be the wrong one.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR

from fastmgr.client.limits cimport begin_limited, limits
from fastmgr.engines.valkey.resp cimport incomplete, Encoder, Parser
from fastmgr.link.system cimport (
    FM_SIGNALS_MS, MSG_DONTWAIT, POLLIN, POLLOUT, fm_hung_up, fm_look, fm_look_again,
    fm_look_begin, fm_look_end, fm_now_ns, fm_poll_one, fm_receive_timeout, fm_recv, fm_send,
    fm_shutdown, fm_spinner, os_close,
)

import errno
import os
import ssl
from time import monotonic

from fastmgr.client.limits import CallTimeout, unanswered
from fastmgr.engines.valkey.errors import (
    ConnectionLost, PipelineError, ProtocolError, ReplyError, why_unsent,
)

cdef enum:
    READ_AT_ONCE = 65536
    MOST_AT_ONCE = 1 << 22      # memory for a reply grows with what arrives
    TLS_AT_ONCE = 16384
    POSTED_AT_ONCE = 64         # look for replies after so many requests,
    MOST_POSTED = 4096          # and wait for them after so many
    IDLE_NS = 10 * 1000 * 1000  # after so long the server may have closed the connection


cdef ssize_t recv_soon(int fd, void *into, size_t room, fm_spinner *spinner) noexcept nogil:
    """Receive what comes before it is time to sleep; else return -EAGAIN.

    Nobody says whether a processor is left to spin on, so the thread yields between two looks.
    """
    cdef fm_look look
    cdef ssize_t n = -EAGAIN
    if fm_look_begin(&look, spinner, False):
        while n == -EAGAIN and fm_look_again(&look):
            n = fm_recv(fd, into, room, MSG_DONTWAIT)
        fm_look_end(&look, n != -EAGAIN)
    return n


cdef class Connection:
    """A connection with a server.

    Parameters
    ----------
    sock : socket.socket or ssl.SSLSocket
        Connected; it is the connection's from now on.
    name : str
        The server's, for messages.

    Attributes
    ----------
    usable : bool
        Whether another request can be sent.
    busy : bool
        Whether a request is under way: what a finalizer or a signal's handler calls meanwhile needs
        another connection.
    posted : list
        The marks of posted requests whose replies have not come.
    answered : list of (object, object)
        The marks of those whose replies have come, and the replies; the owner takes them out.
    """

    def __cinit__(self):
        self.fd = -1
        self.posted = []
        self.answered = []

    def __init__(self, sock, name="the server"):
        self.parser = Parser()
        self.requests = Encoder()
        self.name = name
        if isinstance(sock, ssl.SSLSocket):
            sock.setblocking(False)
            self.tls = sock
            self.fd = sock.fileno()
        else:
            sock.setblocking(True)
            self.fd = sock.detach()
            fm_receive_timeout(self.fd, FM_SIGNALS_MS)
        self.usable = True

    def __dealloc__(self):
        if self.fd >= 0 and self.tls is None:
            os_close(self.fd)

    def __del__(self):
        if self.tls is not None:
            self.abandon()

    # -- requests -----------------------------------------------------------

    cpdef object call(self, words, timeout=None):
        """Send a request, and receive its reply.

        Parameters
        ----------
        words : sequence of bytes, str or int
        timeout : float, optional
            Seconds in which the server must say something.

        Returns
        -------
        object
            The reply; an error reply is a `ReplyError`.

        Raises
        ------
        ConnectionLost
            The connection was lost; ``applied`` says whether the request may have been served.
        TimeoutError
            The reply was not there in time.
        """
        self.begin(timeout)
        try:
            self.requests.add(words)
        except BaseException:
            self.busy = False
            raise
        return self.exchange()

    cdef object exchange(self):
        """Send the one request that has been encoded, and receive its reply."""
        cdef object reply
        try:
            self.send_all(False, False)
            if self.posted:
                self.receive_posted()
            reply = self.receive()
        except BaseException:
            self.drop()
            raise
        self.busy = False
        return reply

    cdef int begin(self, object timeout) except -1:
        """Begin a request or several."""
        cdef int64_t now = fm_now_ns()
        if not self.usable:
            raise self.lost("it is closed", False)
        if self.busy:
            raise RuntimeError("a request is under way over this connection")
        if limits:
            self.begin_limit(now)
        if now - self.last > IDLE_NS and self.hung_up():
            self.close()
            raise self.lost("the server has closed it", False)
        self.limit = 0 if timeout is None else <int64_t>(<double>timeout * 1e9)
        self.deadline = now + self.limit if self.limit else 0
        if self.end and not 0 < self.deadline < self.end:
            self.deadline = self.end
        self.requests.clear()
        self.busy = True
        return 0

    cdef int begin_limit(self, int64_t now) except -1:
        """Note until when a request must be done that is about to be sent."""
        cdef double end = begin_limited()
        self.end = 0 if end == 0.0 else now + <int64_t>((end - <double>monotonic()) * 1e9) + 1
        return 0

    cdef bint hung_up(self) except -1:
        """Whether the server has closed the connection."""
        if self.tls is None:
            return fm_hung_up(self.fd)
        try:
            self.receive_tls_now()
        except ConnectionLost:
            return True
        return False

    def send(self, words):
        """Send a request that has no reply, or whose reply is a push (as of ``SUBSCRIBE``)."""
        self.begin(None)
        try:
            self.requests.add(words)
            try:
                self.send_all(False, False)
            except BaseException:
                self.drop()
                raise
        finally:
            self.busy = False

    def post(self, words, mark):
        """Send a request and do not wait for its reply, which comes before the next call's.

        Parameters
        ----------
        words : sequence of bytes, str or int
        mark : object
            Kept in `posted`, and then with the reply in `answered`.
        """
        self.begin(None)
        try:
            self.requests.add(words)
            try:
                self.posted.append(mark)
                self.send_all(True, False)
                if len(self.posted) >= MOST_POSTED:
                    self.receive_posted()
                elif len(self.posted) % POSTED_AT_ONCE == 0:
                    while self.receive_now():
                        self.take_posted()
            except BaseException:
                if self.posted and self.posted[len(self.posted) - 1] is mark:
                    self.posted.pop()   # what is raised tells of this one
                self.drop()
                raise
        finally:
            self.busy = False

    def await_posted(self, timeout=None):
        """Wait for the replies to all posted requests."""
        if not self.posted:
            return
        self.begin(timeout)
        try:
            self.receive_posted()
        except BaseException:
            self.drop()
            raise
        self.busy = False

    cdef int receive_posted(self) except -1:
        """Receive the replies to posted requests, which come before all others."""
        cdef Py_ssize_t taken = 0
        try:
            while taken < len(self.posted):
                reply = self.receive()
                self.answered.append((self.posted[taken], reply))
                taken += 1
        finally:
            del self.posted[:taken]
        return 0

    def take_posted(self):
        """Parse the replies to posted requests that have arrived."""
        cdef Py_ssize_t taken = 0
        while taken < len(self.posted):
            reply = self.parser.next()
            if reply is incomplete:
                break
            self.answered.append((self.posted[taken], reply))
            taken += 1
        del self.posted[:taken]

    def push(self, timeout=None):
        """Return the next push, a list; None where none has come within `timeout` seconds.

        Raises
        ------
        ConnectionLost
        """
        if self.parser.pushes:
            return self.parser.pushes.pop(0)
        self.begin(timeout)
        try:
            while not self.parser.pushes:
                if self.parser.next() is incomplete and not self.parser.pushes:
                    self.receive_some()
        except TimeoutError:
            return None
        except BaseException:
            self.drop()
            raise
        finally:
            self.busy = False
        return self.parser.pushes.pop(0)

    def pipeline(self, requests, timeout=None):
        """Send requests and receive their replies, by turns.

        Returns
        -------
        list
            A reply for each request.

        Raises
        ------
        PipelineError
            The connection was lost; ``results`` are the replies that have come.
        """
        self.start_pipeline(requests, timeout)
        return self.finish_pipeline()

    def start_pipeline(self, requests, timeout=None):
        """Send requests; `finish_pipeline` must follow, also where other connections come between.

        Raises
        ------
        PipelineError
        """
        self.begin(timeout)
        self.awaited = 0
        try:
            for words in requests:
                self.requests.add(words)
                self.awaited += 1
        except BaseException:
            self.busy = False
            raise
        self.arrived = []
        try:
            self.send_all(True, True)
        except BaseException as error:
            self.cut(error, self.arrived)
            raise

    def finish_pipeline(self):
        """Receive the replies to the requests of `start_pipeline`.

        Raises
        ------
        PipelineError
        """
        cdef list replies = []
        try:
            if self.posted and self.awaited:
                self.receive_posted()
            while len(replies) < self.awaited:
                replies.append(self.receive())
        except BaseException as error:
            self.cut(error, replies)
            raise
        self.busy = False
        return replies

    cdef int cut(self, error, list replies) except -1:
        """Close the connection after what has gone wrong within a pipeline."""
        self.drop()
        if type(error) is CallTimeout:
            raise unanswered(self.name, None) from None
        if isinstance(error, (ConnectionLost, TimeoutError)):
            raise PipelineError(
                f"{error}; {len(replies)} of {self.awaited} calls of the pipeline were answered, "
                "the others may have been applied", replies, range(len(replies), self.awaited)
            ) from None
        return 0

    # -- bytes ----------------------------------------------------------------

    cdef int send_all(self, bint by_turns, bint many) except -1:
        """Send what has been encoded: one request, or `many`.

        `by_turns` with receiving where replies come meanwhile: a server whose replies the client
        does not read may stop reading.
        """
        cdef size_t sent = 0, size = self.requests.size
        cdef ssize_t n
        while sent < size:
            if self.tls is not None:
                n = self.send_tls(self.requests.data[sent:min(size, sent + TLS_AT_ONCE)])
            else:
                n = fm_send(self.fd, self.requests.data + sent, size - sent, MSG_DONTWAIT)
            if n >= 0:
                sent += n
            elif n == -EAGAIN:
                self.wait(POLLOUT | POLLIN if by_turns else POLLOUT)
            elif n == -EINTR:
                PyErr_CheckSignals()
            else:
                raise self.unsent(n, many)
            if by_turns and sent < size:
                try:
                    self.receive_now()
                except ConnectionLost:
                    raise self.unsent(-errno.EPIPE, many) from None
        return 0

    def send_tls(self, bytes data):
        """Send some bytes; a number as `fm_send` returns it."""
        try:
            return self.tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return -EAGAIN
        except OSError as error:
            return -(error.errno if error.errno and error.errno > 0 else errno.EPIPE)

    cdef object receive(self):
        """Receive the next reply."""
        cdef object reply
        while True:
            reply = self.parser.next()
            if reply is not incomplete:
                return reply
            self.receive_some()

    cdef int receive_some(self) except -1:
        """Receive what has come, or comes next."""
        cdef size_t room
        cdef char *into
        cdef ssize_t n
        if self.tls is not None:
            return self.receive_tls()
        into = self.parser.room(
            min(max(self.parser.wanted, <size_t>READ_AT_ONCE // 4), <size_t>MOST_AT_ONCE), &room)
        while True:
            with nogil:
                n = recv_soon(self.fd, into, room, &self.spinner)
            if n == -EAGAIN:
                if self.deadline:
                    self.wait(POLLIN)
                with nogil:
                    n = fm_recv(self.fd, into, room, 0)
            if n > 0:
                self.parser.end += n
                self.renew()
                return 0
            if n == 0:
                raise self.lost("the server has closed it", None)
            if n == -EAGAIN or n == -EINTR:
                PyErr_CheckSignals()
                if not self.usable:
                    raise self.lost("it was closed", None)
            else:
                raise self.lost(why_unsent(None, n, self.requests.size), None)

    cdef int receive_tls(self) except -1:
        """Receive what has come, or comes next, over TLS."""
        while not self.receive_tls_now():
            self.wait(POLLIN)
        return 0

    cdef bint receive_tls_now(self) except -1:
        """Receive what has come over TLS; whether anything has."""
        cdef bytes data
        try:
            data = self.tls.recv(READ_AT_ONCE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise self.lost(error.strerror or error, None) from None
        if not data:
            raise self.lost("the server has closed it", None)
        self.parser.feed(data)
        self.renew()
        return True

    cdef bint receive_now(self) except -1:
        """Receive what has come, without waiting; whether anything has."""
        cdef size_t room
        cdef char *into
        cdef ssize_t n
        if self.tls is not None:
            return self.receive_tls_now()
        into = self.parser.room(READ_AT_ONCE // 4, &room)
        n = fm_recv(self.fd, into, room, MSG_DONTWAIT)
        if n > 0:
            self.parser.end += n
            self.renew()
        elif n == 0:
            raise self.lost("the server has closed it", None)
        elif n != -EAGAIN and n != -EINTR:
            raise self.lost(os.strerror(-n), None)
        return n > 0

    cdef void renew(self) noexcept:
        """Something has come: the server has the whole time again."""
        self.last = fm_now_ns()
        if self.limit:
            self.deadline = self.last + self.limit
            if 0 < self.end < self.deadline:
                self.deadline = self.end

    cdef int wait(self, short events) except -1:
        """Wait until bytes can be received or sent, for as long as the deadline says."""
        cdef int n, milliseconds
        cdef int64_t left
        while True:
            milliseconds = FM_SIGNALS_MS
            if self.deadline:
                left = self.deadline - fm_now_ns()
                if left <= 0:
                    if self.deadline == self.end:
                        # A server runs a request once it has all of it.
                        raise unanswered(self.name, False if events == POLLOUT else None)
                    raise TimeoutError(errno.ETIMEDOUT, f"{self.name} did not answer in time")
                milliseconds = min(<int64_t>FM_SIGNALS_MS, left // 1000000 + 1)
            with nogil:
                n = fm_poll_one(self.fd, events, milliseconds)
            if n > 0:
                return 0
            PyErr_CheckSignals()
            if not self.usable:
                raise self.lost("it was closed", None)
            if n < 0 and n != -EINTR:
                raise self.lost(os.strerror(-n), None)

    # -- its end ----------------------------------------------------------------

    cdef object unsent(self, int number, bint many):
        """The error for one request, or `many`, of which the server has taken only a part.

        A server runs a request once it has all of it.  The replies that have come are put where
        they belong: those of a pipeline into `arrived`.  Behind them may be an error, which the
        server has sent before it closed the connection.
        """
        cdef list found = []
        cdef object reply, said = None
        try:
            while self.receive_now():
                pass
        except ConnectionLost:
            pass
        try:
            while (reply := self.parser.next()) is not incomplete:
                found.append(reply)
        except ProtocolError:
            pass
        if found and type(found[len(found) - 1]) is ReplyError:
            reply = found[len(found) - 1]
            if "Protocol error" in reply.text or (not many and len(found) > len(self.posted)):
                said = found.pop()
        self.answered += zip(self.posted, found)
        self.arrived = found[len(self.posted):]
        del self.posted[:len(found)]
        return self.lost(
            why_unsent(said, number, self.requests.size), None if many else False)

    cdef object lost(self, object reason, object applied):
        """The error that says that the connection was lost."""
        after = {
            False: "the call was not made",
            None: "nobody knows whether the call was made: it may have been applied",
        }[applied]
        return ConnectionLost(
            f"the connection with {self.name} was lost ({reason}); {after}", applied)

    cdef int drop(self) except -1:
        """Close the connection after what has gone wrong within a request."""
        self.busy = False
        self.abandon()
        return 0

    @property
    def pushes(self):
        """The pushes that have arrived; the owner takes them out."""
        return self.parser.pushes

    def fileno(self):
        """The descriptor, -1 once closed."""
        return self.fd

    def close(self):
        """Close the connection; a thread that waits for a reply finds it lost."""
        cdef int fd = self.fd
        if fd < 0:
            return
        self.usable = False
        fm_shutdown(fd)     # a thread that waits at it wakes up
        if not self.busy:   # else its thread closes it
            self.abandon()

    def abandon(self):
        """Close this process's copy of the connection, and nothing else: it is another's."""
        cdef int fd = self.fd
        self.usable = False
        self.fd = -1
        if self.tls is not None:
            self.tls, tls = None, self.tls
            tls.close()
        elif fd >= 0:
            os_close(fd)

    def __repr__(self):
        state = "usable" if self.usable else "closed"
        return f"<{type(self).__name__} with {self.name}, {state}>"
