# cython: auto_pickle=False
"""Proxies of queues that put and get in shared memory themselves; see `client.proxy`.

What the memory alone does not decide goes the way of every call, and so does a call with arguments
that are not plain: the flags in the ring say what the server has to do (`kinds/ring.pxd`).  A call
that has to wait looks at the ring again for a while, for the server is slow to wake anybody.  Then
it waits in the server, where those who wait are served in order.

Between two looks a thread first spins, for a moment, for whoever answers on another processor.
Then it lets others run, and then it naps.  While items stream, many come during one nap, and the
other end has the ring for itself meanwhile.  While somebody waits in the server each put is a call,
and the one that is woken comes too early for the next item: so it pays to look for long.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport usleep

from fastmgr.client.limits cimport begin_limited, limits
from fastmgr.client.proxy cimport CellCore
from fastmgr.kinds.ring cimport (
    GET_ASKS, NONE_ASKS, RING_ASK, RING_BUSY, RING_CROWDED, RING_DONE, RING_EMPTY, RING_FULL,
    RING_GONE, RING_HEAD, RING_LARGE, RingOutcome, fm_ring_pause, ring_capacity, ring_get,
    ring_get_many, ring_most, ring_peek, ring_put, ring_put_many, ring_shrink, ring_spin,
    ring_task_done,
)
from fastmgr.link.system cimport fm_now_ns
from fastmgr.memory.arena cimport KIND_QUEUE
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "<sched.h>" nogil:
    int sched_yield()

import queue

from fastmgr.client.limits import CallTimeout
from fastmgr.wire.opaque import WireError

cdef enum:
    ASK_AFTER = 16          # calls of a proxy, after which it asks where its queue is
    SMALL = 1024            # bytes of an item that are read to the stack
    MANY = 64 * 1024        # bytes of items that one turn puts or gets, beside the last
    MANY_ITEMS = 4096       # and how many items
    # While another process has the ring: how long a thread only lets others run between two looks,
    # how long it then sleeps each time, and how long it waits before it asks the server.
    BUSY_YIELD_NS = 5 * 1000 * 1000
    BUSY_US = 50
    BUSY_NS = 1000 * 1000 * 1000
    SPINS = 64              # for a slot that changes hands quickly, before the thread sleeps
    # Looks at a ring that has nothing to get, or no room: how many with pauses between them, how
    # long these are, until when the thread lets others run, and how often it naps then.
    PAUSES = 8
    PAUSE_NS = 1000
    YIELD_NS = 60 * 1000
    NAPS = 12
    MANY_MEANWHILE = 4      # items that came, or went, during a nap: they stream
    SOON_NS = 1000 * 1000   # a wait in the server that took less: looks would have found it
    MOST_SKIPS = 16         # waits that go to the server at once, after looks that found nothing
    SHRINK_NS = 1000 * 1000 * 1000  # between two times that a proxy gives a ring's memory back
    MOST_REST = 1 << 12     # calls of a proxy, after which it asks again whether there is a ring

cdef enum Operation:
    PUT, GET, TASK_DONE, PUT_MANY, GET_MANY

cdef struct Request:
    Operation operation
    const char *data        # to be put
    char *into              # where an item goes, and how many bytes there are
    uint64_t size, room
    uint64_t count          # of many items

cdef struct Habit:          # of one proxy's gets, or of its puts
    bint streams            # the last nap has paid
    int skip, backoff       # waits that still go to the server at once; how many the last time

cdef struct Wait:
    Habit *habit
    double limit            # seconds that it may take
    int64_t since
    int looks, naps

# For encoding; in use further up this thread's stack, or by another thread, while `encoding`.
cdef Writer scratch = Writer()
cdef bint encoding = False


cdef double time_of(timeout) except? -1:
    """How many seconds a timeout is; -1: the server has to say."""
    if timeout is None:
        return INFINITY
    if type(timeout) is float and timeout > 0:
        return timeout
    return timeout if type(timeout) is int and 0 < timeout < PY_SSIZE_T_MAX else -1


cdef double waiting_of(tuple args, Py_ssize_t skip, dict kwds) except? -1:
    """For how many seconds a call may wait, by its arguments behind the first `skip`.

    -1: the server has to say.
    """
    cdef Py_ssize_t count = len(args) - skip
    block, timeout = True, None
    if count < 0 or count > 2:
        return -1
    if count > 0:
        block = args[skip]
    if count > 1:
        timeout = args[skip + 1]
    for key, value in kwds.items():
        if key == "block" and count < 1:
            block = value
        elif key == "timeout" and count < 2:
            timeout = value
        else:
            return -1
    if block is False:
        return 0
    return time_of(timeout) if block is True else -1


cdef class QueueCore(CellCore):
    """The compiled part of the proxies of queues.

    A queue of a user's, with the same methods, has no ring: its proxy makes each call.
    """

    cdef int calls_before       # that were made since the proxy last knew of a ring
    cdef int rest               # calls for which the proxy knew of none, the last time
    cdef uint64_t maxsize, capacity
    cdef Habit gets, puts
    cdef int64_t shrunk         # when the proxy has given the ring's memory back

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        if kind != KIND_QUEUE or size <= RING_HEAD or type(about) is not int:
            return False
        self.maxsize = max(0, about)
        self.capacity = ring_capacity(size)
        return True

    cdef bint find(self) except -1:
        # A ring has its price: memory, and turns of the server.
        if self.calls_before < ASK_AFTER:
            self.calls_before += 1
            return False
        if CellCore.find(self):
            self.rest = 0
            return True
        if self.cell is NULL and self.view is not None:
            self.forget()       # there is none, now
        return False

    @cython.final
    cdef void forget(self) noexcept:
        """Know of no ring; the queue may get another, for which the proxy asks later."""
        self.cell = NULL
        self.view = None
        self.rest = min(2 * self.rest + ASK_AFTER, MOST_REST)
        self.calls_before = ASK_AFTER - self.rest

    @cython.final
    cdef RingOutcome attempt(self, Request *request) noexcept:
        """Try once, with the cell at hand."""
        if request.operation == PUT:
            return ring_put(
                self.cell, self.capacity, self.view.owner, self.maxsize, request.data, request.size)
        if request.operation == GET:
            return ring_get(
                self.cell, self.capacity, self.view.owner, request.into, request.room,
                &request.size)
        if request.operation == PUT_MANY:
            request.count = request.size
            return ring_put_many(
                self.cell, self.capacity, self.view.owner, self.maxsize, request.data,
                &request.count)
        if request.operation == GET_MANY:
            request.count = request.size
            return ring_get_many(
                self.cell, self.capacity, self.view.owner, request.into, request.room,
                &request.count)
        return ring_task_done(self.cell, self.capacity, self.view.owner)

    @cython.final
    cdef RingOutcome perform(self, Request *request, double waits) except *:
        """Do it in the ring; if it may wait, look for a while whether it can be done."""
        cdef RingOutcome outcome = RING_ASK
        if self.at_hand():
            outcome = self.attempt(request)
            if outcome == RING_BUSY or waits > 0 and is_for_later(outcome):
                outcome = self.look_for_it(request, waits)
            if outcome == RING_GONE:
                self.forget()
            elif outcome == RING_EMPTY:
                self.shrink()
        return outcome

    @cython.final
    cdef void shrink(self) noexcept:
        """Give memory back where nobody waits; else the server does it."""
        cdef int64_t now = fm_now_ns()
        if now - self.shrunk > SHRINK_NS:
            self.shrunk = now
            ring_shrink(self.cell, self.capacity, self.view.owner)

    @cython.final
    cdef RingOutcome look_for_it(self, Request *request, double waits) except *:
        """Try again and again; RING_ASK where that has taken long."""
        cdef RingOutcome outcome = RING_ASK
        cdef bint is_get = request.operation == GET or request.operation == GET_MANY
        cdef bint more = True
        cdef int spins = 0
        cdef int64_t busy_since = 0
        cdef Wait wait
        wait.habit = &self.gets if is_get else &self.puts
        wait.limit = waits
        wait.looks = wait.naps = 0
        while more and self.at_hand():
            outcome = self.attempt(request)
            if outcome == RING_BUSY:
                spins += 1
                if spins % SPINS == 0 or not ring_spin(self.cell):
                    more = let_others_run(&busy_since)
            elif waits > 0 and is_for_later(outcome):
                more = self.look_again(&wait, outcome)
            else:
                return outcome
            outcome = RING_ASK
        return outcome

    @cython.final
    cdef bint look_again(self, Wait *wait, RingOutcome outcome) except -1:
        """Let a moment pass; False where it is time to ask the server."""
        cdef Habit *habit = wait.habit
        cdef bint crowded = outcome == RING_CROWDED     # then nobody needs an answer soon
        cdef int64_t now = fm_now_ns()
        if wait.looks == 0:
            wait.since = now
        elif (now - wait.since) * 2e-9 > wait.limit:
            return False        # half of the caller's time is left for the server
        wait.looks += 1
        if wait.looks <= PAUSES and not crowded:
            pause(now + PAUSE_NS)
        elif wait.naps == 0 and habit.skip > 0:
            habit.skip -= 1
            return False
        elif now - wait.since < YIELD_NS and not habit.streams and not crowded:
            with nogil:
                sched_yield()
        elif wait.naps == NAPS:
            return fail(habit)
        else:
            return self.nap(wait, crowded)
        PyErr_CheckSignals()
        return True

    @cython.final
    cdef bint nap(self, Wait *wait, bint crowded) except -1:
        """Sleep for the shortest time that the system knows."""
        cdef Habit *habit = wait.habit
        cdef uint64_t before = 0, after = 0
        cdef bint knows = ring_peek(self.cell, &before) == RING_DONE
        wait.naps += 1
        with nogil:
            usleep(1)
        PyErr_CheckSignals()
        if not knows or not self.ready() or ring_peek(self.cell, &after) != RING_DONE:
            return True
        before, after = before >> 8, after >> 8
        if before != after:
            habit.streams = max(before, after) - min(before, after) >= MANY_MEANWHILE
            habit.backoff = 0
        elif crowded:
            return fail(habit)      # nobody is taking anything out
        return True

    @cython.final
    cdef object ask(self, Habit *habit, object name, object args, object kwds):
        """Make the call of an operation that waits for the other end."""
        cdef int64_t since = fm_now_ns()
        result = self._callmethod(name, args, kwds)
        if fm_now_ns() - since < SOON_NS:
            habit.skip = habit.backoff = 0
        return result

    # -- methods, as the server's ------------------------------------------------------

    @cython.final
    cdef RingOutcome put_item(self, object item, double waits) except *:
        global encoding
        cdef Request request
        cdef Writer writer
        cdef bint owner
        if waits < 0 or not self.at_hand():
            return RING_ASK
        owner = not encoding
        writer = scratch if owner else Writer()
        encoding = True
        try:
            writer.reset()
            writer.pickles = 0
            if writer.put_compact(item) or writer.pickles:
                return RING_ASK
            request.operation = PUT
            request.data, request.size = writer.data, writer.size
            return self.perform(&request, waits)
        finally:
            if owner:
                encoding = False

    @cython.final
    cdef RingOutcome get_item(self, double waits, list into) except *:
        """Take the first item, and add it to `into`, which has room for it."""
        cdef Request request
        cdef char small[SMALL]
        cdef char *large = NULL
        cdef Reader reader
        if waits < 0 or not self.at_hand():
            return RING_ASK
        request.operation = GET
        request.into, request.room = small, SMALL
        try:
            outcome = self.perform(&request, waits)
            while outcome == RING_LARGE:
                free(large)
                large = <char *>malloc(request.size)
                if large is NULL:
                    raise MemoryError(f"no memory for an item of {request.size} bytes")
                request.into, request.room = large, request.size
                outcome = self.perform(&request, waits)
            if outcome == RING_DONE:
                reader = Reader()
                reader.feed(request.into, request.size, None, False)
                into[0] = reader.get()
            return outcome
        finally:
            free(large)

    @cython.final
    cdef Py_ssize_t put_some(self, list items, Py_ssize_t first, double waits) except -1:
        """Put items, from the first that is left on, in one turn; how many were put."""
        cdef Writer writer = Writer()
        cdef Request request
        cdef uint64_t size = 0, most
        cdef size_t start
        cdef Py_ssize_t i = first
        if not self.at_hand():
            return 0
        most = ring_most(self.capacity)
        while i < len(items) and i - first < MANY_ITEMS and writer.size < MANY:
            start = writer.size
            writer.write(&size, sizeof(size))
            writer.pickles = 0
            if writer.put_compact(items[i]) or writer.pickles:
                break
            size = writer.size - start - sizeof(size)
            if size > most:
                break
            memcpy(writer.data + start, &size, sizeof(size))
            i += 1
        if i == first:
            return 0
        request.operation = PUT_MANY
        request.data, request.size = writer.data, <uint64_t>(i - first)
        if self.perform(&request, waits) != RING_DONE:
            return 0
        return <Py_ssize_t>request.count

    @cython.final
    cdef bint get_some(self, list got, Py_ssize_t most, double waits) except -1:
        """Add the first items to `got`, in one turn; whether there were any."""
        cdef Request request
        cdef uint64_t room
        cdef RingOutcome outcome
        cdef char *data
        # With items in `got` nothing may raise: they would be lost.
        if not (self.ready() if got else self.at_hand()):
            return False
        room = MANY + sizeof(uint64_t) + ring_most(self.capacity)
        data = <char *>malloc(room)
        if data is NULL:
            if got:
                return False
            raise MemoryError(f"no memory for {room} bytes of items")
        try:
            request.operation = GET_MANY
            request.into, request.room = data, room
            request.size = <uint64_t>min(most, MANY_ITEMS)
            outcome = self.attempt(&request) if got else self.perform(&request, waits)
            if outcome != RING_DONE:
                return False
            return read_all(data, request.count, got)
        finally:
            free(data)

    def put_many(self, /, *args, **kwds):
        """Put each of some items in turn, as one call; it waits for room for each, in order.

        It takes ``items, block=True, timeout=None``; the seconds are for all items together.
        """
        cdef double waits = waiting_of(args, 1, kwds)
        cdef double left = waits        # of the time for all items
        cdef int64_t since
        cdef Py_ssize_t moved, done = 0
        cdef list items
        if waits < 0 or not self.at_hand():
            return self._callmethod("put_many", args, kwds)
        items = list(args[0])
        since = fm_now_ns()
        try:
            while done < len(items):
                moved = self.put_some(items, done, left)
                if moved == 0:
                    timeout = None if waits == INFINITY else left
                    return self._callmethod("put_many", (items[done:], waits > 0, timeout))
                done += moved
                left = max(0.0, waits - <double>(fm_now_ns() - since) * 1e-9)
            return None
        except Exception as error:
            if done and isinstance(error, CallTimeout) and error.applied is False:
                raise CallTimeout(
                    "the time that fastmgr.timeout has set is over: "
                    f"{done:,} of {len(items):,} items were put") from None
            if done and isinstance(getattr(error, "put", None), int):
                error.put += done
            raise

    def get_many(self, /, *args, **kwds):
        """Return a list of those items that are there, `max_items` at most, and at least one.

        It takes ``max_items, block=True, timeout=None``, and waits, so many seconds at most, for
        the first item alone.
        """
        cdef double waits = waiting_of(args, 1, kwds)
        cdef list got = []
        cdef Py_ssize_t most
        cdef uint64_t about = 0
        if waits >= 0 and type(args[0]) is int and 0 < args[0] < PY_SSIZE_T_MAX:
            most = args[0]
            if self.get_some(got, most, waits):
                # More would come for ever where others put quickly.
                if self.ready() and ring_peek(self.cell, &about) == RING_DONE:
                    most = min(most, len(got) + <Py_ssize_t>(about >> 8))
                while len(got) < most and self.get_some(got, most - len(got), waits):
                    pass
                return got
        return self.ask(&self.gets, "get_many", args, kwds)

    def put(self, /, *args, **kwds):
        """Put an item into the queue.

        It takes ``item, block=True, timeout=None``: it waits for room, `timeout` seconds at most,
        and then, or without `block`, raises `queue.Full`.
        """
        cdef double waits = waiting_of(args, 1, kwds)
        cdef RingOutcome outcome
        if waits >= 0:
            outcome = self.put_item(args[0], waits)
            if outcome == RING_DONE:
                return
            if outcome == RING_FULL and not waits:
                raise queue.Full
            if self.maxsize:
                return self.ask(&self.puts, "put", args, kwds)
        return self._callmethod("put", args, kwds)

    def put_nowait(self, /, *args, **kwds):
        """Put an item into the queue without blocking; `queue.Full` where there is no room."""
        cdef RingOutcome outcome
        if len(args) == 1 and not kwds:
            outcome = self.put_item(args[0], 0)
            if outcome == RING_DONE:
                return
            if outcome == RING_FULL:
                raise queue.Full
        return self._callmethod("put_nowait", args, kwds)

    def get(self, /, *args, **kwds):
        """Remove and return an item from the queue.

        It takes ``block=True, timeout=None``: it waits for an item, `timeout` seconds at most, and
        then, or without `block`, raises `queue.Empty`.
        """
        cdef double waits = waiting_of(args, 0, kwds)
        cdef RingOutcome outcome
        cdef list into = [None]
        if waits >= 0:
            outcome = self.get_item(waits, into)
            if outcome == RING_DONE:
                return into[0]
            if outcome == RING_EMPTY and not waits:
                raise queue.Empty
        return self.ask(&self.gets, "get", args, kwds)

    def get_nowait(self, /, *args, **kwds):
        """Remove and return an item without blocking; `queue.Empty` where there is none."""
        cdef RingOutcome outcome
        cdef list into = [None]
        if not args and not kwds:
            outcome = self.get_item(0, into)
            if outcome == RING_DONE:
                return into[0]
            if outcome == RING_EMPTY:
                raise queue.Empty
        return self._callmethod("get_nowait", args, kwds)

    def task_done(self, /, *args, **kwds):
        """Indicate that a formerly enqueued task is complete."""
        cdef Request request
        request.operation = TASK_DONE
        if not args and not kwds and self.perform(&request, 0) == RING_DONE:
            return
        return self._callmethod("task_done", args, kwds)

    @cython.final
    cdef int64_t size_here(self) except -2:
        """How many items there are; -1: the server knows."""
        cdef uint64_t about = 0
        if self.at_hand() and ring_peek(self.cell, &about) == RING_DONE and (
            about & (NONE_ASKS | GET_ASKS) == 0
        ):
            return <int64_t>(about >> 8)
        return -1

    def qsize(self, /, *args, **kwds):
        """Return the approximate size of the queue."""
        cdef int64_t size = -1 if args or kwds else self.size_here()
        return size if size >= 0 else self._callmethod("qsize", args, kwds)

    def empty(self, /, *args, **kwds):
        """Return True if the queue is empty, False otherwise."""
        cdef int64_t size = -1 if args or kwds else self.size_here()
        return size == 0 if size >= 0 else self._callmethod("empty", args, kwds)

    def full(self, /, *args, **kwds):
        """Return True if the queue is full, False otherwise."""
        cdef int64_t size = -1 if args or kwds else self.size_here()
        if size < 0:
            return self._callmethod("full", args, kwds)
        return self.maxsize != 0 and <uint64_t>size >= self.maxsize


cdef bint read_all(const char *at, uint64_t left, list got) except -1:
    """Add items to `got`, but for what is no value: an error only if nothing else was taken."""
    cdef Reader reader = Reader()
    cdef uint64_t size = 0
    wrong = None
    while left:
        try:
            while left:
                memcpy(&size, at, sizeof(size))
                reader.feed(at + sizeof(size), size, None, False)
                at += sizeof(size) + size
                left -= 1
                got.append(reader.get())
        except WireError as error:
            wrong = error
    if not got:
        raise wrong
    return True


cdef bint let_others_run(int64_t *since) except -1:
    """Wait a moment for another process, which may not run; False where that has taken long."""
    cdef int64_t now = fm_now_ns()
    if since[0] == 0:
        since[0] = now
    with nogil:
        usleep(0 if now - since[0] < BUSY_YIELD_NS else BUSY_US)
    PyErr_CheckSignals()
    if limits:
        begin_limited()
    return now - since[0] < BUSY_NS


cdef void pause(int64_t until) noexcept:
    """Stay away from the ring, for a moment in which nobody else need run here."""
    while fm_now_ns() < until:
        fm_ring_pause()


cdef bint fail(Habit *habit) noexcept:
    """Enter that looks have found nothing; False: it is time to ask the server."""
    habit.streams = False
    habit.backoff = habit.skip = min(2 * habit.backoff + 1, MOST_SKIPS)
    return False


cdef inline bint is_for_later(RingOutcome outcome) noexcept:
    """Whether what cannot be done now can be done when others have put or taken something."""
    return outcome == RING_EMPTY or outcome == RING_FULL or outcome == RING_CROWDED
