"""Atomic steps on words of memory that processes share."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "memory/atomics.h" nogil:
    uint64_t fm_load(const uint64_t *word)
    void fm_store(uint64_t *word, uint64_t value)
    uint64_t fm_exchange(uint64_t *word, uint64_t value)
    uint64_t fm_clear_bits(uint64_t *word, uint64_t bits)
    uint64_t fm_set_bits(uint64_t *word, uint64_t bits)
    int fm_replace(uint64_t *word, uint64_t *expected, uint64_t desired)
    int fm_add_signed(void *at, size_t size, int64_t amount, int64_t *total)
    int fm_add_unsigned(void *at, size_t size, int64_t amount, uint64_t *total)
    double fm_double_of(uint64_t bits)
    uint64_t fm_bits_of(double value)

    uint64_t fm_owner_here(uint64_t serial)
    void fm_set_owner_here(uint64_t serial, uint64_t owner)

    int THREAD_BITS "FM_THREAD_BITS"
