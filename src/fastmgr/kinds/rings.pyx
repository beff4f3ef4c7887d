# cython: auto_pickle=False
"""The server's part of a ring (`kinds/ring.pxd`): its turns, and the end of a ring.

A thread of the server holds the GIL from `enter` to `leave`, and runs no Python code in between but
steps of a deque: so no two threads of the server meet at the slot.  While `enter` waits for a
client it lets other threads run.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport usleep

from fastmgr.kinds.ring cimport (
    GONE, RING_BUSY, RING_DONE, RING_FLAGS, RING_KEPT, SIDE, RingOutcome, RingState, ring_begin,
    ring_capacity, ring_commit, ring_copy_first, ring_count, ring_drop_first, ring_empty, ring_end,
    ring_first, ring_most, ring_peek, ring_push, ring_read_state, ring_shrink, ring_slot, ring_spin,
    ring_take,
)
from fastmgr.kinds.slots cimport LOCAL, OWNER, session_of
from fastmgr.memory.atomics cimport fm_load, fm_store, uint64_t
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

from multiprocessing import util
from time import monotonic_ns

from fastmgr.wire.opaque import WireError

cdef enum:
    # How long one client may have the slot: the loop, which waits only where the slot was taken
    # just now, and another thread.  A client that has it may have to wait for a processor first.
    LOOP_PATIENCE_NS = 25 * 1000 * 1000
    PATIENCE_NS = 1000 * 1000 * 1000
    MOST_TURNS_NS = 2 * 1000 * 1000 * 1000      # and how long several may, one after the other
    NAP_US = 50
    MOST_TRIES = 1000
    BATCH_BYTES = 64 * 1024     # that are encoded before a turn
    BATCH_ITEMS = 1000

cdef uint64_t SERVER = LOCAL | 1
NOTHING = object()


@cython.final
cdef class Batch:
    """The first items of a queue, encoded."""

    def __init__(self):
        self.records = Writer()
        self.items = []


@cython.final
cdef class Ring:
    """A ring of one queue, as the server sees it.

    Parameters
    ----------
    cell : Cell
        Where clients can map it; nobody else knows it yet.
    loop : int
        The thread that serves clients.
    """

    def __init__(self, Cell cell not None, unsigned long loop):
        self.cell = cell
        self.loop = loop
        self.capacity = ring_capacity(cell.size)
        ring_begin(cell.at)

    cdef bint is_busy(self) noexcept:
        """Whether the loop had better leave the ring to a thread that can wait."""
        if self.gone or PyThread_get_thread_ident() != self.loop:
            return False
        ring_spin(self.cell.at)
        return fm_load(ring_slot(self.cell.at)) & OWNER != 0

    # -- turns ---------------------------------------------------------------------

    cdef int enter(self) except -1:
        """Begin a turn; of a ring that is `gone` nobody else has one."""
        if not self.gone and ring_take(
            &self.turn, self.cell.at, self.capacity, SERVER
        ) != RING_DONE:
            self.await_turn()
        return 0

    cdef int leave(self, uint64_t flags) except -1:
        """End a turn: what `turn` says holds from now on."""
        cdef uint64_t kept = flags | self.turn.state.about & ~<uint64_t>RING_FLAGS
        self.turn.state.about = kept
        if not self.gone and not ring_commit(&self.turn):
            # Nobody but the server may change a slot that the server has.
            fm_store(ring_slot(self.cell.at), GONE)
            self.gone = True
            util.info("a client has written nonsense into a queue's memory")
        elif self.loses:
            self.loses = False
            util.info("a client has spoiled a queue's memory: its items are lost")
        elif not self.gone and self.turn.state.used == 0 and self.turn.state.peak > RING_KEPT:
            ring_shrink(self.cell.at, self.capacity, SERVER)
        return 0

    cdef int await_turn(self) except -1:
        """Wait until the slot is free; end the ring where one client does not give it back."""
        cdef bint on_loop = PyThread_get_thread_ident() == self.loop
        cdef object begun = monotonic_ns()
        cdef object since = begun
        cdef uint64_t word, seen = fm_load(ring_slot(self.cell.at))
        cdef RingOutcome outcome
        cdef int tries = 0
        while not self.gone:
            outcome = ring_take(&self.turn, self.cell.at, self.capacity, SERVER)
            if outcome == RING_DONE:
                return 0
            now = monotonic_ns()
            word = fm_load(ring_slot(self.cell.at))
            if outcome != RING_BUSY:
                return self.spoil("its slot or its state is nonsense")
            if word != seen:
                seen, since = word, now
            if now - since > (LOOP_PATIENCE_NS if on_loop else PATIENCE_NS) or (
                now - begun > (2 * LOOP_PATIENCE_NS if on_loop else MOST_TURNS_NS)
            ):
                util.info("a client has not let go of a queue's memory")
                self.end()
                return 0
            tries += 1
            with nogil:
                if tries < 100:
                    ring_spin(self.cell.at)
                usleep(0 if tries < 100 else NAP_US)
        return 0

    # -- the end of the ring ----------------------------------------------------------

    cdef void end(self) noexcept:
        """Have clients change nothing any more; the items that are there are the server's."""
        cdef uint64_t *slot = ring_slot(self.cell.at)
        cdef int tries = 0
        if self.gone:
            return
        self.gone = True
        while not ring_end(&self.turn, self.cell.at, self.capacity, fm_load(slot)):
            tries += 1
            if tries >= MOST_TRIES:     # clients take turns faster than that only on purpose
                fm_store(slot, GONE | fm_load(slot) & SIDE)

    cdef int end_of(self, uint64_t session) except -1:
        """End the ring if that session has the slot: its process is dead, or is not heard of."""
        cdef uint64_t word = fm_load(ring_slot(self.cell.at))
        if not self.gone and session_of(word) == session and ring_end(
            &self.turn, self.cell.at, self.capacity, word
        ):
            self.gone = True
        return 0

    cdef int spoil(self, object why) except -1:
        """End a ring that holds nonsense, in the server's turn or without one."""
        util.info("a client has spoiled a queue's memory: %s", why)
        self.end()
        return 0

    cdef Py_ssize_t clear(self) noexcept:
        """Drop all items, in a turn; return how many."""
        cdef uint64_t count = ring_count(&self.turn)
        ring_empty(&self.turn)
        return <Py_ssize_t>count

    # -- items --------------------------------------------------------------------------

    cdef Py_ssize_t count(self) noexcept:
        """How many items there are."""
        cdef uint64_t about = 0
        if not self.gone and ring_peek(self.cell.at, &about) == RING_DONE:
            return <Py_ssize_t>(about >> 8)
        self.end()
        return <Py_ssize_t>ring_count(&self.turn)

    cdef char *pop(self, uint64_t *size) except? NULL:
        """Take the first item out, in a turn: a copy, which `read` frees.

        NULL says that there is none.  Where something else is written than an item the ring ends,
        and what may come behind is lost.
        """
        cdef char *data
        cdef uint64_t lost
        if ring_count(&self.turn) == 0:
            return NULL
        if not ring_first(&self.turn, size):
            lost = self.turn.state.unfinished
            lost -= min(lost, <uint64_t>self.clear())
            self.turn.state.unfinished = lost
            if not self.gone:
                self.gone = True
                fm_store(ring_slot(self.cell.at), GONE)
            self.loses = True
            return NULL
        data = <char *>malloc(size[0] if size[0] else 1)
        if data is NULL:
            raise MemoryError(f"no memory for an item of {size[0]} bytes")
        ring_copy_first(&self.turn, data, size[0])
        ring_drop_first(&self.turn, size[0])
        return data

    cdef object read(self, char *data, uint64_t size):
        """The item that `pop` has returned; NOTHING where the bytes are no value."""
        cdef Reader reader
        try:
            reader = Reader()
            reader.feed(data, size, None, False)
            value = reader.get()
            if not reader.done():
                raise WireError("bytes after the value")
            return value
        except WireError as error:
            self.spoil(error)
            return NOTHING
        finally:
            free(data)

    cdef bint wants(self) noexcept:
        """Whether the ring had better be filled: half of it is empty.

        Encoding items for one that is nearly full would be in vain, mostly.
        """
        cdef RingState state
        cdef bint second = fm_load(ring_slot(self.cell.at)) & SIDE != 0
        ring_read_state(&state, self.cell.at, second)
        return not self.gone and state.used <= self.capacity // 2

    cdef Batch encode(self, object items):
        """Encode the first of `items`, a deque, up to one that the ring takes not; before a turn.

        None where that is the first one.
        """
        cdef Batch batch = Batch()
        cdef Writer w = batch.records
        cdef uint64_t most = ring_most(self.capacity)
        cdef uint64_t size = 0
        cdef size_t start
        while len(batch.items) < min(BATCH_ITEMS, len(items)) and w.size < BATCH_BYTES:
            # Other threads may change `items` meanwhile: `push` looks.
            item = items[len(batch.items)]
            start = w.size
            w.write(&size, sizeof(size))
            if w.put_compact(item) or w.pickles or w.size - start - sizeof(size) > most:
                break
            size = w.size - start - sizeof(size)
            memcpy(w.data + start, &size, sizeof(size))
            batch.items.append(item)
        return batch if batch.items else None

    cdef Py_ssize_t push(self, Batch batch, object items) except -1:
        """Move encoded items from the front of `items` into the ring, in a turn; how many."""
        cdef const char *at = batch.records.data
        cdef Py_ssize_t moved = 0
        cdef uint64_t size
        for item in batch.items:
            memcpy(&size, at, sizeof(size))
            at += sizeof(size)
            if not items or items[0] is not item or not ring_push(&self.turn, at, size):
                break
            items.popleft()     # `batch` has it, too: nothing is destroyed here
            at += size
            moved += 1
        return moved
