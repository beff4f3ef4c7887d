"""The slot protocol: who holds a lock or a permit, in one word that server and clients share.

A slot holds the number of its owner, or 0, and two bits.  A word is in one of three states:

    free        anybody takes it
    held        its owner's process frees it; the server frees it, or marks it as contended
    contended   held, and somebody waits: the server alone changes it

Only the server sets and clears OWNER_DIED; everybody else leaves that bit as it was.

Each function here is one transition, and nothing else changes a slot.  Where several processes may
change a word, the function replaces exactly the word that it has looked at (compare-and-exchange),
so of two that change it at once one begins anew, or gives up.  A client that is killed has made its
step or has not: its number is in the slot or is not.  No function trusts a word, for a client can
write anything there: a strange word keeps its own lock from working, and does no other harm.

`tests/model` explores what comes of all orders of these steps, and compiles this file for it.
"""

from fastmgr.memory.atomics cimport (
    THREAD_BITS, fm_clear_bits, fm_load, fm_replace, fm_set_bits, fm_store, uint64_t,
)

cdef extern from *:
    """
    #define FM_LOCAL ((uint64_t)1 << 55)
    #define FM_OWNER (((uint64_t)1 << 56) - 1)
    #define FM_CONTENDED ((uint64_t)1 << 63)
    #define FM_OWNER_DIED ((uint64_t)1 << 62)
    """
    const uint64_t LOCAL "FM_LOCAL"             # in the number of an owner without a session
    const uint64_t OWNER "FM_OWNER"             # the bits of the owner's number
    const uint64_t CONTENDED "FM_CONTENDED"
    const uint64_t OWNER_DIED "FM_OWNER_DIED"   # an owner was killed, without `consistent` since

# -- an owner's number: a session's above a thread's (0: unknown), or LOCAL and a running number --

cdef inline uint64_t session_of(uint64_t owner) noexcept nogil:
    """The number of the session that an owner belongs to; 0 for none."""
    return 0 if owner & LOCAL else (owner & OWNER) >> THREAD_BITS

cdef inline uint64_t party_of(uint64_t owner) noexcept nogil:
    """The number of the party that may release what an owner has taken: its session, or itself."""
    return session_of(owner) or owner & OWNER

# -- anybody looks ---------------------------------------------------------------

cdef inline uint64_t holder_of(const uint64_t *slot) noexcept nogil:
    """The owner's number; 0 where the slot is free."""
    return fm_load(slot) & OWNER

cdef inline bint is_contended(const uint64_t *slot) noexcept nogil:
    """Whether somebody waits, so that the server alone changes the slot."""
    return fm_load(slot) & CONTENDED != 0

cdef inline bint owner_died(const uint64_t *slot) noexcept nogil:
    """Whether an owner was killed, and nobody has said since that all is well."""
    return fm_load(slot) & OWNER_DIED != 0

cdef inline uint64_t depth_of(const uint64_t *slot) noexcept nogil:
    """How often the owner of an RLock has taken it: the word behind the slot."""
    return fm_load(slot + 1)

# -- a client by itself, and the server for a caller ------------------------------

cdef inline bint take_slot(uint64_t *slot, uint64_t owner) noexcept nogil:
    """Take the slot if it is free.  Nobody waits for a free slot, so nobody is overtaken."""
    cdef uint64_t word = fm_load(slot)
    while word & OWNER == 0:
        if fm_replace(slot, &word, word | owner):
            return True
    return False

cdef inline bint take_rlock(uint64_t *slot, uint64_t owner) noexcept nogil:
    """Take an RLock that is free, or once more if `owner` holds it.

    The depth is changed by the owner's thread alone, or by the server while that thread waits for
    the server: two steps are as good as one.
    """
    if take_slot(slot, owner):
        fm_store(slot + 1, 1)
    elif holder_of(slot) == owner:
        fm_store(slot + 1, depth_of(slot) + 1)
    else:
        return False
    return True

cdef inline bint step_down(uint64_t *slot) noexcept nogil:
    """Count one release of an RLock, for its owner; False where that is the last one."""
    cdef uint64_t depth = depth_of(slot)
    if depth <= 1:
        return False
    fm_store(slot + 1, depth - 1)
    return True

# -- a client by itself -------------------------------------------------------------

cdef inline bint _free(uint64_t *slot, uint64_t word) noexcept nogil:
    """Free the slot unless the server has contended it, perhaps just now: it hands the slot on."""
    return not word & CONTENDED and fm_replace(slot, &word, word & OWNER_DIED)

cdef inline bint free_slot(uint64_t *slot, uint64_t owner) noexcept nogil:
    """Free what a thread of the owner's process holds; False where only the server can.

    Only the server frees what another process holds: it knows what deaths have given back.
    """
    cdef uint64_t word = fm_load(slot)
    return (word & OWNER) >> THREAD_BITS == owner >> THREAD_BITS and _free(slot, word)

cdef inline bint free_rlock(uint64_t *slot, uint64_t owner) noexcept nogil:
    """Release once an RLock that this very thread holds; False where only the server can."""
    cdef uint64_t word = fm_load(slot)
    return word & OWNER == owner and (step_down(slot) or _free(slot, word))

# -- the server alone: its threads do this one after the other -------------------------

cdef inline bint take_or_contend(uint64_t *slot, uint64_t owner) noexcept nogil:
    """Take the slot if it is free, else see to it that it is contended.

    The server does this before it queues the caller: there is no moment in which the holder could
    free the slot by itself and leave the queue unserved.
    """
    cdef uint64_t word = fm_load(slot)
    while True:
        if word & OWNER == 0:
            if fm_replace(slot, &word, word | owner):
                return True
        elif word & CONTENDED or fm_replace(slot, &word, word | CONTENDED):
            return False

cdef inline bint leave_free(uint64_t *slot, uint64_t holder, uint64_t died) noexcept nogil:
    """Free the slot and set `died`, for nobody waits; False where the holder was quicker."""
    cdef uint64_t word = fm_load(slot)
    while word & OWNER == holder:
        if fm_replace(slot, &word, word & OWNER_DIED | died):
            return True
    return False

cdef inline void hand_to(uint64_t *slot, uint64_t owner, uint64_t died, bint others) noexcept nogil:
    """Give a contended slot to the first who waits; `others` wait still.

    Nobody else changes a contended slot, so it is written without a comparison.  It is free at no
    moment: no client can take it before the one who waits.
    """
    fm_store(slot, fm_load(slot) & OWNER_DIED | died | owner | (CONTENDED if others else 0))

cdef inline void set_depth(uint64_t *slot, uint64_t depth) noexcept nogil:
    """Say how often the owner that an RLock is given has taken it."""
    fm_store(slot + 1, depth)

cdef inline void mark_owner_died(uint64_t *slot) noexcept nogil:
    """Mark a semaphore: an owner was killed whose permit had no slot of its own."""
    fm_set_bits(slot, OWNER_DIED)

cdef inline void clear_owner_died(uint64_t *slot) noexcept nogil:
    """Somebody says that what the slot guards is in order."""
    fm_clear_bits(slot, OWNER_DIED)
