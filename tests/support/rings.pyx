"""The ring protocol as it is compiled for server and clients, on memory that a test has."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport free, malloc

from fastmgr.kinds.ring cimport *
from fastmgr.memory.atomics cimport fm_load, fm_replace, fm_store, uint64_t
from fastmgr.memory.segments cimport fm_clear

HEAD, MOST_FLAGS = RING_HEAD, RING_FLAGS
FLAG_PUT, FLAG_GET, FLAG_DONE, FLAG_NONE = PUT_ASKS, GET_ASKS, DONE_ASKS, NONE_ASKS
DONE, BUSY, OVER, SPOILED, ASK, FULL, EMPTY, LARGER, CROWDED = (
    RING_DONE, RING_BUSY, RING_GONE, RING_SPOILED, RING_ASK, RING_FULL, RING_EMPTY, RING_LARGE,
    RING_CROWDED)
IS_GONE, IS_SIDE, IS_PLACED = GONE, SIDE, PLACED
OWNER_BITS = (1 << 56) - 1


def clear(buffer, size_t start, size_t size):
    """Make a part of a buffer zero, as the memory of a ring or cell that nobody uses any more."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    fm_clear(<char *>view.buf + start, size)
    PyBuffer_Release(&view)


cdef class Memory:
    """A ring in a writable buffer of exactly that many bytes."""

    cdef Py_buffer view
    cdef char *at
    cdef readonly uint64_t capacity

    def __init__(self, buffer):
        PyObject_GetBuffer(buffer, &self.view, PyBUF_WRITABLE)
        self.at = <char *>self.view.buf
        self.capacity = ring_capacity(<size_t>self.view.len)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def begin(self, uint64_t unfinished=0, uint64_t flags=0):
        cdef Turn turn
        ring_begin(self.at)
        if ring_take(&turn, self.at, self.capacity, 1) == RING_DONE:
            turn.state.about = flags
            turn.state.unfinished = unfinished
            ring_commit(&turn)

    def put(self, uint64_t owner, bytes data, uint64_t maxsize=0):
        return ring_put(self.at, self.capacity, owner, maxsize, data, <uint64_t>len(data))

    def get(self, uint64_t owner, uint64_t room=4096):
        """The item, or what has come of it."""
        cdef uint64_t size = 0
        cdef char *into = <char *>malloc(room if room else 1)
        try:
            outcome = ring_get(self.at, self.capacity, owner, into, room, &size)
            if outcome != RING_DONE:
                return outcome
            return into[:size]
        finally:
            free(into)

    def put_many(self, uint64_t owner, bytes records, uint64_t count, uint64_t maxsize=0):
        """What has come of it, and how many were put."""
        outcome = ring_put_many(self.at, self.capacity, owner, maxsize, records, &count)
        return outcome, count

    def get_many(self, uint64_t owner, uint64_t count):
        """What has come of it, and how many were taken, of small items."""
        cdef char into[4096]
        outcome = ring_get_many(self.at, self.capacity, owner, into, sizeof(into), &count)
        return outcome, count

    def shrink(self, uint64_t owner):
        ring_shrink(self.at, self.capacity, owner)

    def task_done(self, uint64_t owner):
        return ring_task_done(self.at, self.capacity, owner)

    def peek(self):
        cdef uint64_t about = 0
        outcome = ring_peek(self.at, &about)
        if outcome != RING_DONE:
            return outcome
        return about >> 8, about & RING_FLAGS

    def state(self):
        """What holds, without a check: about, head, used, unfinished, peak."""
        cdef RingState state
        ring_read_state(&state, self.at, fm_load(ring_slot(self.at)) & SIDE != 0)
        return state.about, state.head, state.used, state.unfinished, state.peak

    def items(self):
        """The items, as of now; a list that ends with False where something else is written."""
        cdef Turn turn
        cdef uint64_t size = 0
        cdef char into[256]
        turn.at, turn.capacity = self.at, self.capacity
        ring_read_state(&turn.state, self.at, fm_load(ring_slot(self.at)) & SIDE != 0)
        items = []
        while ring_count(&turn):
            if not ring_first(&turn, &size) or size > sizeof(into):
                return [*items, False]
            ring_copy_first(&turn, into, size)
            items.append(into[:size])
            ring_drop_first(&turn, size)
        return items

    def end(self):
        """End the ring, whoever has it: the items that it holds until the first that is none."""
        cdef Turn turn
        cdef uint64_t size = 0
        cdef char *into
        while not ring_end(&turn, self.at, self.capacity, fm_load(ring_slot(self.at))):
            pass
        items = []
        while ring_count(&turn) and ring_first(&turn, &size):
            into = <char *>malloc(size if size else 1)
            ring_copy_first(&turn, into, size)
            items.append(into[:size])
            free(into)
            ring_drop_first(&turn, size)
        return items

    @property
    def slot(self):
        return fm_load(ring_slot(self.at))

    @slot.setter
    def slot(self, uint64_t word):
        fm_store(ring_slot(self.at), word)


cdef class Step:
    """A turn, step by step."""

    cdef Turn turn
    cdef Memory memory
    cdef uint64_t owner

    def __init__(self, Memory memory not None, uint64_t owner):
        self.memory, self.owner = memory, owner

    def take(self):
        return ring_take(&self.turn, self.memory.at, self.memory.capacity, self.owner)

    def push(self, bytes data):
        return ring_push(&self.turn, data, <uint64_t>len(data))

    def pop(self):
        """The first item; None where there is none, False for what is no item."""
        cdef char into[256]
        cdef uint64_t size = 0
        if ring_count(&self.turn) == 0:
            return None
        if not ring_first(&self.turn, &size) or size > sizeof(into):
            return False
        ring_copy_first(&self.turn, into, size)
        ring_drop_first(&self.turn, size)
        return into[:size]

    def write(self, bint other=True):
        """Write the copy of the state that does not hold, or the one that does."""
        ring_write_state(
            &self.turn.state, self.memory.at, (self.turn.word & SIDE == 0) == other)

    def commit(self):
        return ring_commit(&self.turn)

    def commit_alone(self, bint flips=True):
        """Commit what `write` has written."""
        cdef uint64_t word = self.turn.word
        return fm_replace(
            ring_slot(self.memory.at), &word,
            (word & ~<uint64_t>OWNER_BITS) ^ (SIDE if flips else 0))

    def known(self):
        """All that the process knows of the ring."""
        return self.turn.word, self.turn.state.about, self.turn.state.head, self.turn.state.used

    def let_go(self):
        ring_let_go(&self.turn)

    def end(self, uint64_t seen):
        return ring_end(&self.turn, self.memory.at, self.memory.capacity, seen)

    @property
    def count(self):
        return ring_count(&self.turn)

    @property
    def flags(self):
        return self.turn.state.about & RING_FLAGS

    @flags.setter
    def flags(self, uint64_t flags):
        self.turn.state.about = self.turn.state.about & ~<uint64_t>RING_FLAGS | flags
