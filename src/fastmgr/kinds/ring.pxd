"""The ring protocol: a queue's items in memory that the server and its clients share.

A ring is a cell (`RING_HEAD` bytes, then room for items): a slot, two copies of the state, and the
items as bytes.  The slot is one word: the number of the process that works on the ring, or 0, and

    PLACED  a ring was made of this memory; without the bit nobody may use it as one
    SIDE    which copy of the state holds
    GONE    the queue is not here any more

Who works on the ring takes the slot (`ring_take`) and reads the state that holds.  It writes items
where none are, or copies one out, writes the *other* copy of the state, and in one step makes that
the one that holds and gives the slot back (`ring_commit`).  Before that step nothing has happened,
and after it all has: who is killed in between has put no half of an item, and has taken nothing.
So one turn adds items or takes some out, and never both: it would write over what still is there.

The server replaces a slot by GONE (`ring_end`) if its owner is dead, or does not let go: stopped,
say.  What the owner does later fails.  It may still write where no items are, so that memory is not
used again for anything else, and the items are the server's to read.

Nobody calls Python, or allocates, from taking the slot to giving it back.  No position, size or
count from the memory is used before it was read once and checked: a client can write anything
there.

`tests/model` explores what comes of all orders of these steps, and compiles this file for it.
"""

from libc.string cimport memcpy

from fastmgr.kinds.slots cimport LOCAL, OWNER
from fastmgr.memory.atomics cimport fm_load, fm_replace, fm_store, uint64_t
from fastmgr.memory.segments cimport fm_clear

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #if defined(__x86_64__) || defined(__i386__)
    #define fm_ring_pause() __builtin_ia32_pause()
    #else
    #define fm_ring_pause() ((void)0)
    #endif
    /* A whole word, in whatever order: nobody reads it before a later atomic step. */
    #define fm_ring_note(word, value) __atomic_store_n(word, value, __ATOMIC_RELAXED)
    /* `ring_peek` reads this word at any time.  Whoever has read the new value then sees in the
       slot, too, that the copy had ceased to hold: on x86 with any order, on ARM with this one. */
    #define fm_ring_show(word, value) __atomic_store_n(word, value, __ATOMIC_RELEASE)

    #define FM_RING_GONE ((uint64_t)1 << 63)
    #define FM_RING_SIDE ((uint64_t)1 << 62)
    #define FM_RING_PLACED ((uint64_t)1 << 61)

    /* Words of shared memory, of which each copy has a cache line. */
    typedef struct {
        uint64_t about;      /* how many items, above 8 bits of flags: read in one step by `peek` */
        uint64_t head, used; /* where the first item is, and how many bytes the items take */
        uint64_t unfinished; /* tasks, for `join` */
        uint64_t peak;       /* bytes that were in use at most since memory was given back */
    } fm_ring_state;
    """
    void fm_ring_pause() nogil
    void fm_ring_note(uint64_t *word, uint64_t value) nogil
    void fm_ring_show(uint64_t *word, uint64_t value) nogil
    const uint64_t GONE "FM_RING_GONE"
    const uint64_t SIDE "FM_RING_SIDE"
    const uint64_t PLACED "FM_RING_PLACED"

    ctypedef struct RingState "fm_ring_state":
        uint64_t about, head, used, unfinished, peak

cdef enum:
    RING_LINE = 64
    RING_HEAD = 3 * 64      # bytes: the slot and both copies of the state
    RING_PAGE = 4096
    RING_KEPT = 64 * 1024   # bytes of memory that an empty ring may keep
    RING_SPINS = 12         # looks at a slot that another has, before a thread lets others run
    RING_PAUSES = 32        # of the processor, between two looks

# Flags, which the server alone sets: what a client must leave to it.
cdef enum RingFlag:
    PUT_ASKS = 1        # others wait, there are items behind those of the ring, or it is shut down
    GET_ASKS = 2        # puts wait, or there are items before those of the ring
    DONE_ASKS = 4       # somebody joins the queue
    NONE_ASKS = 8       # of an empty ring: there are items behind, or the queue is shut down
    RING_FLAGS = 255

# What has come of a step.
cdef enum RingOutcome:
    RING_DONE = 0
    RING_BUSY = 1       # another process works on it
    RING_GONE = 2       # the queue is not here any more
    RING_SPOILED = 3    # somebody has written nonsense
    RING_ASK = 4        # the server has to do it
    RING_FULL = 5
    RING_EMPTY = 6
    RING_LARGE = 7      # the item does not fit into the caller's buffer
    RING_CROWDED = 8    # the queue is not full, but the ring has no room for the item


cdef struct Turn:
    # What one process knows of the ring, from `ring_take` to `ring_commit`.
    char *at                # the cell
    uint64_t capacity       # bytes for items
    uint64_t word           # the slot, with this process's number in it
    RingState state         # checked


# -- sizes -----------------------------------------------------------------------

cdef inline uint64_t ring_capacity(size_t size) noexcept nogil:
    """How many bytes for items a cell of that size has."""
    return (size - RING_HEAD) & ~<uint64_t>7


cdef inline uint64_t ring_record(uint64_t size) noexcept nogil:
    """How many bytes an item of that size takes: its size, and itself in whole words."""
    return sizeof(uint64_t) + ((size + 7) & ~<uint64_t>7)


cdef inline uint64_t ring_most(uint64_t capacity) noexcept nogil:
    """The bytes of the largest item that a ring takes."""
    return capacity // 8


cdef inline uint64_t ring_count(const Turn *turn) noexcept nogil:
    return turn.state.about >> 8


# -- where words and bytes lie ------------------------------------------------------

cdef inline uint64_t *ring_slot(char *at) noexcept nogil:
    return <uint64_t *>at


cdef inline uint64_t *ring_copy(char *at, bint second) noexcept nogil:
    """One of the copies of the state."""
    return <uint64_t *>(at + (2 * RING_LINE if second else RING_LINE))


cdef inline uint64_t ring_wrapped(const Turn *turn, uint64_t position) noexcept nogil:
    """Where a position lies that may be past the end once."""
    return position - turn.capacity if position >= turn.capacity else position


cdef inline uint64_t *ring_size_at(const Turn *turn, uint64_t position) noexcept nogil:
    """The word with an item's size.  Records are whole words, so none of them is in two parts."""
    return <uint64_t *>(turn.at + RING_HEAD + position)


cdef inline void ring_write(
    Turn *turn, uint64_t position, const char *data, uint64_t size
) noexcept nogil:
    """Copy bytes into the ring, to a position below its capacity."""
    cdef char *items = turn.at + RING_HEAD
    cdef uint64_t first = min(size, turn.capacity - position)
    memcpy(items + position, data, first)
    if size > first:
        memcpy(items, data + first, size - first)


cdef inline void ring_read(
    const Turn *turn, uint64_t position, char *into, uint64_t size
) noexcept nogil:
    """Copy bytes out of the ring."""
    cdef const char *items = turn.at + RING_HEAD
    cdef uint64_t first = min(size, turn.capacity - position)
    memcpy(into, items + position, first)
    if size > first:
        memcpy(into + first, items, size - first)


# -- taking the slot and giving it back ----------------------------------------------

cdef inline bint ring_is_sane(const RingState *state, uint64_t capacity) noexcept nogil:
    """Whether a state can be one: then nothing that it says leads out of the ring."""
    return (
        state.head < capacity and state.used <= capacity
        and (state.head | state.used) & 7 == 0
        and state.about >> 8 <= state.used // sizeof(uint64_t)
        and (state.about >> 8 == 0) == (state.used == 0)
    )


cdef inline void ring_read_state(RingState *state, char *at, bint second) noexcept nogil:
    """Read each word of a copy once."""
    cdef const uint64_t *words = ring_copy(at, second)
    state.about = fm_load(words)
    state.head = fm_load(words + 1)
    state.used = fm_load(words + 2)
    state.unfinished = fm_load(words + 3)
    state.peak = fm_load(words + 4)


cdef inline void ring_write_state(const RingState *state, char *at, bint second) noexcept nogil:
    """Write a copy that does not hold."""
    cdef uint64_t *words = ring_copy(at, second)
    fm_ring_show(words, state.about)
    fm_ring_note(words + 1, state.head)
    fm_ring_note(words + 2, state.used)
    fm_ring_note(words + 3, state.unfinished)
    fm_ring_note(words + 4, state.peak)


cdef inline RingOutcome ring_take(
    Turn *turn, char *at, uint64_t capacity, uint64_t owner
) noexcept nogil:
    """Take the slot, and read the state: RING_DONE; else the ring is as it was."""
    cdef uint64_t word = fm_load(ring_slot(at))
    while True:
        if word & GONE or not word & PLACED:
            return RING_GONE
        if word & OWNER:
            return RING_BUSY
        if fm_replace(ring_slot(at), &word, word | owner):
            break
    turn.at = at
    turn.capacity = capacity
    turn.word = word | owner
    ring_read_state(&turn.state, at, word & SIDE != 0)
    if not ring_is_sane(&turn.state, capacity):
        ring_let_go(turn)
        return RING_SPOILED
    return RING_DONE


cdef inline void ring_let_go(Turn *turn) noexcept nogil:
    """Give the slot back; all that was done since it was taken counts for nothing."""
    cdef uint64_t word = turn.word
    fm_replace(ring_slot(turn.at), &word, turn.word & ~OWNER)


cdef inline bint ring_commit(Turn *turn) noexcept nogil:
    """Have the new state hold, and give the slot back; False: the server was quicker."""
    cdef uint64_t word = turn.word
    ring_write_state(&turn.state, turn.at, word & SIDE == 0)
    return fm_replace(ring_slot(turn.at), &word, (turn.word & ~OWNER) ^ SIDE)


# -- anybody, without the slot -------------------------------------------------------

cdef inline RingOutcome ring_peek(char *at, uint64_t *about) noexcept nogil:
    """Read how many items there are, and the flags, as of one moment.

    Another process may write to a copy just when that copy ceases to hold.  Then the slot shows
    the other side, or what was written has come to hold meanwhile.
    """
    cdef uint64_t word = fm_load(ring_slot(at))
    cdef uint64_t before
    while True:
        if word & GONE or not word & PLACED:
            return RING_GONE
        before = word
        about[0] = fm_load(ring_copy(at, word & SIDE != 0))
        word = fm_load(ring_slot(at))
        if (word ^ before) & (SIDE | GONE | PLACED) == 0:
            return RING_DONE


cdef inline bint ring_spin(char *at) noexcept nogil:
    """Look at a slot that another has for a moment; whether it is free now, as it mostly is.

    Each look takes the slot's memory from the processor of the one who works there.
    """
    cdef int _, _pause
    for _ in range(RING_SPINS):
        if fm_load(ring_slot(at)) & OWNER == 0:
            return True
        for _pause in range(RING_PAUSES):
            fm_ring_pause()
    return False


# -- items, for who has the slot ------------------------------------------------------

cdef inline bint ring_push(Turn *turn, const char *data, uint64_t size) noexcept nogil:
    """Add an item behind the others; False where there is no room."""
    cdef RingState *state = &turn.state
    cdef uint64_t record = ring_record(size)
    cdef uint64_t tail
    if record > turn.capacity - state.used:
        return False
    tail = ring_wrapped(turn, state.head + state.used)
    fm_ring_note(ring_size_at(turn, tail), size)
    ring_write(turn, ring_wrapped(turn, tail + sizeof(size)), data, size)
    state.used += record
    state.about += RING_FLAGS + 1
    state.peak = max(state.peak, min(tail + record, turn.capacity))
    return True


cdef inline bint ring_first(const Turn *turn, uint64_t *size) noexcept nogil:
    """How many bytes the first item has; False where what is written there is no item."""
    if turn.state.used < sizeof(uint64_t):
        return False
    # In one load, which no compiler makes twice: what was checked is what is used.
    size[0] = fm_load(ring_size_at(turn, turn.state.head))
    return size[0] <= ring_most(turn.capacity) and ring_record(size[0]) <= turn.state.used


cdef inline void ring_copy_first(const Turn *turn, char *into, uint64_t size) noexcept nogil:
    """Copy the first item, whose size `ring_first` has told."""
    ring_read(turn, ring_wrapped(turn, turn.state.head + sizeof(uint64_t)), into, size)


cdef inline void ring_empty(Turn *turn) noexcept nogil:
    """Drop all items.  The next lie at the beginning again, so that short queues need few pages."""
    turn.state.about &= RING_FLAGS
    turn.state.head = turn.state.used = 0


cdef inline void ring_drop_first(Turn *turn, uint64_t size) noexcept nogil:
    """Take the first item out."""
    cdef RingState *state = &turn.state
    cdef uint64_t record = ring_record(size)
    state.about -= RING_FLAGS + 1
    state.head = ring_wrapped(turn, state.head + record)
    state.used -= record
    if state.about <= RING_FLAGS:
        ring_empty(turn)


cdef inline void ring_clear(char *at, uint64_t capacity, uint64_t peak) noexcept nogil:
    """Give back the memory of an empty ring that was in use: all whole pages but the first."""
    cdef size_t page = RING_PAGE
    cdef size_t start = <size_t>(at + RING_HEAD)
    cdef size_t end = (start + min(peak, capacity)) // page * page
    start = (start + page) // page * page
    if end > start:
        fm_clear(<char *>start, end - start)


cdef inline void ring_shrink(char *at, uint64_t capacity, uint64_t owner) noexcept nogil:
    """Give the memory of an empty ring back, where that was long.

    This is a turn of its own.  Before the turn that took the last item has been committed that item
    is still there.  While items stream the memory will be needed again soon: so it is given back
    when somebody wants an item and there is none.
    """
    cdef Turn turn
    if ring_take(&turn, at, capacity, owner) != RING_DONE:
        return
    if ring_count(&turn) != 0 or turn.state.peak <= RING_KEPT:
        ring_let_go(&turn)
        return
    ring_clear(at, capacity, turn.state.peak)
    turn.state.peak = 0
    ring_commit(&turn)


# -- a client by itself: whole operations ----------------------------------------------

cdef inline RingOutcome ring_put(
    char *at, uint64_t capacity, uint64_t owner, uint64_t maxsize, const char *data, uint64_t size
) noexcept nogil:
    """Put an item; 0 as `maxsize` is no limit."""
    cdef Turn turn
    cdef RingOutcome outcome
    if size > ring_most(capacity):
        return RING_ASK
    outcome = ring_take(&turn, at, capacity, owner)
    if outcome != RING_DONE:
        return outcome
    if turn.state.about & PUT_ASKS:
        outcome = RING_ASK
    elif maxsize and ring_count(&turn) >= maxsize:
        outcome = RING_FULL
    elif ring_push(&turn, data, size):
        turn.state.unfinished += 1
        return RING_DONE if ring_commit(&turn) else RING_GONE
    else:
        outcome = RING_CROWDED
    ring_let_go(&turn)
    return outcome


cdef inline RingOutcome ring_none(uint64_t about) noexcept nogil:
    """What a `get` comes to where the ring is empty."""
    return RING_ASK if about & NONE_ASKS else RING_EMPTY


cdef inline RingOutcome ring_get(
    char *at, uint64_t capacity, uint64_t owner, char *into, uint64_t room, uint64_t *size
) noexcept nogil:
    """Take the first item: its bytes go to `into`, and how many there are to `size`."""
    cdef Turn turn
    cdef uint64_t about = 0
    cdef RingOutcome outcome = ring_peek(at, &about)
    if outcome == RING_DONE and about <= RING_FLAGS:
        return RING_ASK if about & GET_ASKS else ring_none(about)
    outcome = ring_take(&turn, at, capacity, owner)
    if outcome != RING_DONE:
        return outcome
    if turn.state.about & GET_ASKS:
        outcome = RING_ASK
    elif ring_count(&turn) == 0:
        outcome = ring_none(turn.state.about)
    elif not ring_first(&turn, size):
        outcome = RING_SPOILED
    elif size[0] > room:
        outcome = RING_LARGE
    else:
        ring_copy_first(&turn, into, size[0])
        ring_drop_first(&turn, size[0])
        return RING_DONE if ring_commit(&turn) else RING_GONE
    ring_let_go(&turn)
    return outcome


cdef inline RingOutcome ring_put_many(
    char *at, uint64_t capacity, uint64_t owner, uint64_t maxsize, const char *records,
    uint64_t *count
) noexcept nogil:
    """Put items, of each of which there is the size, in a word, and the bytes.

    `count` says how many there are, then how many were put; where that is none, the outcome why.
    """
    cdef Turn turn
    cdef uint64_t size = 0, done = 0, most = count[0]
    cdef RingOutcome outcome = ring_take(&turn, at, capacity, owner)
    count[0] = 0
    if outcome != RING_DONE:
        return outcome
    outcome = RING_ASK
    while done < most and turn.state.about & PUT_ASKS == 0:
        if maxsize and ring_count(&turn) >= maxsize:
            outcome = RING_FULL
            break
        memcpy(&size, records, sizeof(size))
        if not ring_push(&turn, records + sizeof(size), size):
            outcome = RING_CROWDED
            break
        records += sizeof(size) + size
        done += 1
    if done == 0:
        ring_let_go(&turn)
        return outcome
    turn.state.unfinished += done
    if not ring_commit(&turn):
        return RING_GONE
    count[0] = done
    return RING_DONE


cdef inline RingOutcome ring_get_many(
    char *at, uint64_t capacity, uint64_t owner, char *into, uint64_t room, uint64_t *count
) noexcept nogil:
    """Take the first items, at most `count`, which then says how many there are.

    Of each the size, in a word, and the bytes go to `into`.  Where more are wanted than there are,
    and the server may have others, it is asked.
    """
    cdef Turn turn
    cdef uint64_t size = 0, done = 0, most = count[0]
    cdef RingOutcome outcome = ring_take(&turn, at, capacity, owner)
    count[0] = 0
    if outcome != RING_DONE:
        return outcome
    if turn.state.about & GET_ASKS or turn.state.about & NONE_ASKS and ring_count(&turn) < most:
        outcome = RING_ASK
    elif ring_count(&turn) == 0:
        outcome = RING_EMPTY
    while outcome == RING_DONE and done < most and ring_count(&turn):
        if not ring_first(&turn, &size):
            outcome = RING_SPOILED
        elif size + sizeof(size) > room:
            outcome = RING_LARGE
        else:
            memcpy(into, &size, sizeof(size))
            ring_copy_first(&turn, into + sizeof(size), size)
            ring_drop_first(&turn, size)
            into += sizeof(size) + size
            room -= sizeof(size) + size
            done += 1
    if done == 0:
        ring_let_go(&turn)
        return outcome
    if not ring_commit(&turn):
        return RING_GONE
    count[0] = done
    return RING_DONE


cdef inline RingOutcome ring_task_done(
    char *at, uint64_t capacity, uint64_t owner
) noexcept nogil:
    """Count one task less; the server says where there is none, and ends who joins the queue."""
    cdef Turn turn
    cdef RingOutcome outcome = ring_take(&turn, at, capacity, owner)
    if outcome != RING_DONE:
        return outcome
    if turn.state.unfinished == 0 or turn.state.about & DONE_ASKS and turn.state.unfinished == 1:
        ring_let_go(&turn)
        return RING_ASK
    turn.state.unfinished -= 1
    return RING_DONE if ring_commit(&turn) else RING_GONE


# -- the server alone --------------------------------------------------------------------

cdef inline void ring_begin(char *at) noexcept nogil:
    """Make an empty ring of a cell that nobody knows yet."""
    cdef RingState state
    state.about = PUT_ASKS | GET_ASKS | NONE_ASKS
    state.head = state.used = state.unfinished = state.peak = 0
    ring_write_state(&state, at, False)
    fm_store(ring_slot(at), PLACED)


cdef inline bint ring_end(Turn *turn, char *at, uint64_t capacity, uint64_t seen) noexcept nogil:
    """Have nobody change the ring any more, and read what it holds.

    `seen` is the slot as it was: False where another process has changed it meanwhile.  A state
    that is nonsense is read as that of an empty ring.
    """
    cdef uint64_t word = seen
    if not fm_replace(ring_slot(at), &word, GONE | seen & SIDE):
        return False
    turn.at = at
    turn.capacity = capacity
    turn.word = 0
    ring_read_state(&turn.state, at, seen & SIDE != 0)
    if not ring_is_sane(&turn.state, capacity):
        turn.state.about = turn.state.head = turn.state.used = turn.state.unfinished = 0
        turn.state.peak = 0
    return True
