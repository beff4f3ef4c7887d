"""Whole operations on a ring, as they are compiled, by a process that dies at any of its steps.

A step is an access that changes the ring: a store to a word, an exchange, eight bytes of an item.
Whoever is dead makes none any more, whatever the code goes on to do.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

from fastmgr.kinds.ring cimport (
    RING_DONE, RING_HEAD, ring_capacity, ring_get, ring_get_many, ring_put, ring_put_many,
    ring_shrink, ring_task_done,
)
from fastmgr.memory.atomics cimport uint64_t

cdef extern from *:
    """
    #include "memory/atomics.h"
    #include "memory/segments.h"

    static struct {
        const char *ring;
        size_t size;
        int64_t left;           /* steps until the death */
    } traced;

    static int traced_lives(void) {
        return traced.left > 0 && traced.left-- > 0;
    }

    static void traced_store(uint64_t *word, uint64_t value) {
        if (traced_lives())
            *word = value;
    }

    static int traced_replace(uint64_t *word, uint64_t *expected, uint64_t desired) {
        return !traced_lives() || fm_replace(word, expected, desired);
    }

    static void *traced_copy(void *to, const void *from, size_t size) {
        size_t at, most;
        if ((const char *)to < traced.ring || (const char *)to >= traced.ring + traced.size)
            return memmove(to, from, size);
        for (at = 0; at < size; at += most) {
            most = size - at < 8 ? size - at : 8;
            if (traced_lives())
                memmove((char *)to + at, (const char *)from + at, most);
        }
        return to;
    }

    static void traced_clear(char *at, size_t size) {
        if (traced_lives())
            fm_clear(at, size);
    }

    #undef memcpy
    #define memcpy traced_copy
    #define fm_replace traced_replace
    #define fm_clear traced_clear
    #define __atomic_store_n(word, value, order) traced_store(word, value)
    """
    struct traced_state:
        const char *ring
        size_t size
        int64_t left
    traced_state traced

cdef enum:
    ROOM = 4096


def operate(buffer, str name, uint64_t owner, bytes data, uint64_t count, int64_t steps):
    """Make an operation, of which no step is made after so many; how many are left of these.

    `data` is the item, or the records of `count` items; for gets `count` is the most.
    """
    cdef Py_buffer view
    cdef char into[ROOM]
    cdef char *at
    cdef uint64_t capacity, size = 0
    cdef int outcome = RING_DONE
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    at = <char *>view.buf
    capacity = ring_capacity(<size_t>view.len)
    traced.ring, traced.size, traced.left = at, <size_t>view.len, steps
    if name == "put":
        outcome = ring_put(at, capacity, owner, 0, data, <uint64_t>len(data))
    elif name == "get":
        outcome = ring_get(at, capacity, owner, into, ROOM, &size)
    elif name == "put_many":
        outcome = ring_put_many(at, capacity, owner, 0, data, &count)
    elif name == "get_many":
        outcome = ring_get_many(at, capacity, owner, into, ROOM, &count)
    elif name == "task_done":
        outcome = ring_task_done(at, capacity, owner)
    else:
        ring_shrink(at, capacity, owner)
    traced.ring = NULL
    traced.size = 0
    PyBuffer_Release(&view)
    assert outcome == RING_DONE
    return traced.left
