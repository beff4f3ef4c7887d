/* Atomic steps on memory that processes share.

   Leaf functions: they never touch Python and may be called without the GIL.  They use no value of
   shared memory as a pointer, a length or an offset: a process that maps the memory can write
   anything there.  That makes numbers wrong, and does no harm beyond the cell. */
#ifndef FASTMGR_ATOMICS_H
#define FASTMGR_ATOMICS_H

#include <stdint.h>
#include <string.h>

/* The owner of a lock is a number: that of a session, above that of a thread in it (0: unknown). */
enum { FM_THREAD_BITS = 24 };

/* ---- steps on a word ---------------------------------------------------- */

static inline uint64_t fm_load(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void fm_store(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline uint64_t fm_exchange(uint64_t *word, uint64_t value) {
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

static inline uint64_t fm_clear_bits(uint64_t *word, uint64_t bits) {
    return __atomic_fetch_and(word, ~bits, __ATOMIC_SEQ_CST);
}

static inline uint64_t fm_set_bits(uint64_t *word, uint64_t bits) {
    return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

/* Replace `*expected` by `desired`; where the word is another, put that into `*expected`. */
static inline int fm_replace(uint64_t *word, uint64_t *expected, uint64_t desired) {
    return __atomic_compare_exchange_n(
        word, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Add to an integer of `size` bytes; where the sum does not fit return 0 and change nothing. */
#define FM_ADD(TYPE)                                                                             \
    case sizeof(TYPE): {                                                                         \
        TYPE before = __atomic_load_n((TYPE *)at, __ATOMIC_RELAXED), after;                      \
        do {                                                                                     \
            if (__builtin_add_overflow(before, amount, &after))                                  \
                return 0;                                                                        \
        } while (!__atomic_compare_exchange_n(                                                   \
            (TYPE *)at, &before, after, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));                 \
        *sum = after;                                                                            \
        return 1;                                                                                \
    }

static inline int fm_add_signed(void *at, size_t size, int64_t amount, int64_t *sum) {
    switch (size) { FM_ADD(int8_t) FM_ADD(int16_t) FM_ADD(int32_t) FM_ADD(int64_t) }
    return 0;
}

static inline int fm_add_unsigned(void *at, size_t size, int64_t amount, uint64_t *sum) {
    switch (size) { FM_ADD(uint8_t) FM_ADD(uint16_t) FM_ADD(uint32_t) FM_ADD(uint64_t) }
    return 0;
}

static inline double fm_double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t fm_bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ---- which thread this is ------------------------------------------------ */

/* The calling thread's number as an owner, at the server whose view has that `serial`; 0: not known
   yet. */
typedef struct {
    uint64_t serial, owner;
} fm_thread_owner;

static __thread fm_thread_owner fm_this_thread;

static inline uint64_t fm_owner_here(uint64_t serial) {
    return fm_this_thread.serial == serial ? fm_this_thread.owner : 0;
}

static inline void fm_set_owner_here(uint64_t serial, uint64_t owner) {
    fm_this_thread.serial = serial;
    fm_this_thread.owner = owner;
}

#endif
