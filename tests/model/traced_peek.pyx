"""How a client counts the items of a ring, as it is compiled, one access to a word at a time.

As in `traced_slots`: a look gets from `past` what it has found so far, and stops at the next word.
"""

from fastmgr.kinds.ring cimport RING_DONE, ring_peek
from fastmgr.memory.atomics cimport uint64_t

cdef extern from *:
    """
    #include "memory/atomics.h"

    static struct traced_state {
        uint64_t words[64];     /* only their places matter */
        uint64_t past[64];
        int found, of;          /* how many of `past` were given, and how many there are */
        int stopped;
        uint64_t at;            /* the word that is wanted next */
    } traced;

    static uint64_t traced_load(const uint64_t *word) {
        if (traced.found < traced.of)
            return traced.past[traced.found++];
        if (!traced.stopped) {
            traced.stopped = 1;
            traced.at = (uint64_t)(word - traced.words);
        }
        return 0;               /* no slot of a ring: the look ends */
    }

    #define fm_load traced_load
    """
    struct traced_state:
        uint64_t words[64]
        uint64_t past[64]
        int found, of, stopped
        uint64_t at
    traced_state traced


def look(tuple past):
    """The word that a look needs next, or None; how many items there are, or None: it is over."""
    cdef uint64_t about = 0
    traced.found, traced.of, traced.stopped = 0, len(past), False
    for i, value in enumerate(past):
        traced.past[<size_t>i] = value
    outcome = ring_peek(<char *>traced.words, &about)
    if traced.stopped:
        return traced.at, None
    return None, about if outcome == RING_DONE else None
