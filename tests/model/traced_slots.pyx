"""The slot protocol as it is compiled for server and clients, one access to a word at a time.

What `kinds/slots.pxd` does to a word goes through the functions below.  A step that is traced gets
from `past` what its accesses have found so far, and stops at the next: it goes on with what lets it
end, and all that comes of that is dropped.
"""

from fastmgr.kinds cimport slots
from fastmgr.memory.atomics cimport THREAD_BITS as thread_bits, uint64_t

cdef extern from *:
    """
    #include "memory/atomics.h"

    enum traced_name { IS_NONE, IS_LOAD, IS_STORE, IS_REPLACE, IS_SET_BITS, IS_CLEAR_BITS };

    static struct traced_state {
        int traces;             /* else the accesses are made on `words` */
        uint64_t words[64];
        uint64_t past[64];
        int found, of;          /* how many of `past` were given, and how many there are */
        enum traced_name next;  /* the first access that is not in `past` */
        uint64_t at, a, b;
    } traced;

    /* What an access finds, or `otherwise` from the first on that is not known. */
    static uint64_t traced_access(
        enum traced_name name, const uint64_t *word, uint64_t a, uint64_t b, uint64_t otherwise
    ) {
        if (traced.found < traced.of)
            return traced.past[traced.found++];
        if (traced.next == IS_NONE) {
            traced.next = name;
            traced.at = (uint64_t)(word - traced.words);
            traced.a = a;
            traced.b = b;
        }
        return otherwise;
    }

    static uint64_t traced_load(const uint64_t *word) {
        return traced.traces ? traced_access(IS_LOAD, word, 0, 0, 0) : fm_load(word);
    }

    static void traced_store(uint64_t *word, uint64_t value) {
        if (traced.traces)
            traced_access(IS_STORE, word, value, 0, 0);
        else
            fm_store(word, value);
    }

    static int traced_replace(uint64_t *word, uint64_t *expected, uint64_t desired) {
        if (!traced.traces)
            return fm_replace(word, expected, desired);
        uint64_t found = traced_access(IS_REPLACE, word, *expected, desired, *expected);
        int done = found == *expected;
        *expected = found;
        return done;
    }

    static uint64_t traced_set_bits(uint64_t *word, uint64_t bits) {
        return traced.traces ? traced_access(IS_SET_BITS, word, bits, 0, 0)
                             : fm_set_bits(word, bits);
    }

    static uint64_t traced_clear_bits(uint64_t *word, uint64_t bits) {
        return traced.traces ? traced_access(IS_CLEAR_BITS, word, bits, 0, 0)
                             : fm_clear_bits(word, bits);
    }

    #define fm_load traced_load
    #define fm_store traced_store
    #define fm_replace traced_replace
    #define fm_set_bits traced_set_bits
    #define fm_clear_bits traced_clear_bits
    """
    enum: IS_NONE
    struct traced_state:
        int traces
        uint64_t words[64]
        uint64_t past[64]
        int found, of
        int next
        uint64_t at, a, b
    traced_state traced

OWNER, CONTENDED, OWNER_DIED, THREAD_BITS = (
    slots.OWNER, slots.CONTENDED, slots.OWNER_DIED, thread_bits)
ACCESSES = ("", "load", "store", "replace", "set_bits", "clear_bits")


cdef object call(str name, uint64_t *slot, uint64_t a, uint64_t b, uint64_t c):
    if name == "holder_of":
        return slots.holder_of(slot)
    if name == "take_slot":
        return slots.take_slot(slot, a)
    if name == "take_rlock":
        return slots.take_rlock(slot, a)
    if name == "step_down":
        return slots.step_down(slot)
    if name == "free_slot":
        return slots.free_slot(slot, a)
    if name == "free_rlock":
        return slots.free_rlock(slot, a)
    if name == "take_or_contend":
        return slots.take_or_contend(slot, a)
    if name == "leave_free":
        return slots.leave_free(slot, a, b)
    if name == "hand_to":
        return slots.hand_to(slot, a, b, c != 0)
    if name == "set_depth":
        return slots.set_depth(slot, a)
    if name == "mark_owner_died":
        return slots.mark_owner_died(slot)
    if name == "clear_owner_died":
        return slots.clear_owner_died(slot)
    raise ValueError(name)


def traced_step(tuple past, str name, size_t i, uint64_t a=0, uint64_t b=0, uint64_t c=0):
    """Begin a step on slot `i`: its next access, as (name, index, a, b), or None; its result."""
    traced.traces, traced.next, traced.found, traced.of = True, IS_NONE, 0, len(past)
    for k, value in enumerate(past):
        traced.past[<size_t>k] = value
    result = call(name, &traced.words[i], a, b, c)
    if traced.next == IS_NONE:
        return None, result
    return (ACCESSES[traced.next], traced.at, traced.a, traced.b), None


def real_step(tuple words, str name, size_t i, uint64_t a=0, uint64_t b=0, uint64_t c=0):
    """Make a step on words that hold those: its result, and what they hold after it."""
    traced.traces = False
    for k, word in enumerate(words):
        traced.words[<size_t>k] = word
    result = call(name, &traced.words[i], a, b, c)
    return result, tuple([traced.words[k] for k in range(len(words))])
