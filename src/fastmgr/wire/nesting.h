/* How deeply a pickle nests, before anything of it is made.

   CPython hashes a tuple by hashing its members, level by level on the C stack, and does not look how
   deep it is.  A key that nests deeply enough ends the process, also when a dict is unpickled that
   has such a key.  So this walks over a pickle's opcodes as the unpickler will.  Its stack and memo
   are the unpickler's, but hold the depth of each value in the value's place.

   Leaf functions: they never touch Python.  At the first opcode that makes no sense the walk ends:
   the unpickler fails there, too, and has made nothing that was not walked over. */
#ifndef FASTMGR_NESTING_H
#define FASTMGR_NESTING_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FM_NESTING_FINE = 0, FM_NESTING_DEEP = -1, FM_NESTING_MEMO = -2, FM_NESTING_NO_MEMORY = -3 };

enum { FM_MARK = -1, FM_ABSENT = -2 }; /* in place of a depth */

typedef struct {
    int32_t *items;
    size_t size, capacity;
} fm_depths;

/* Have room for `n` items. */
static inline int fm_depths_grow(fm_depths *d, size_t n) {
    if (n <= d->capacity)
        return 1;
    size_t capacity = d->capacity * 2 > n ? d->capacity * 2 : n + 64;
    int32_t *items = (int32_t *)realloc(d->items, capacity * sizeof *items);
    if (items == NULL)
        return 0;
    d->items = items;
    d->capacity = capacity;
    return 1;
}

typedef struct {
    const unsigned char *at, *end;
    fm_depths stack, memo;
    size_t memoized; /* how many places of the memo are in use */
    int32_t limit;
} fm_nesting;

static inline uint64_t fm_pickled_uint(const unsigned char *at, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)at[i] << 8 * i;
    return v;
}

/* Pass over an argument: `n` bytes, or a length of `n` bytes and as many bytes as that says. */
static inline int fm_pass(fm_nesting *w, int n, int is_length) {
    if (w->end - w->at < n)
        return 0;
    uint64_t more = is_length ? fm_pickled_uint(w->at, n) : 0;
    w->at += n;
    if (more > (uint64_t)(w->end - w->at))
        return 0;
    w->at += more;
    return 1;
}

static inline int fm_pass_line(fm_nesting *w) {
    const unsigned char *end =
        (const unsigned char *)memchr(w->at, '\n', (size_t)(w->end - w->at));
    if (end == NULL)
        return 0;
    w->at = end + 1;
    return 1;
}

/* Take the `n` uppermost values, or all above the last mark and the mark (FM_TO_MARK).  Return the
   greatest depth, or FM_ABSENT where there are too few. */
#define FM_TO_MARK SIZE_MAX

static inline int32_t fm_take_depths(fm_nesting *w, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t depth = w->stack.size ? w->stack.items[--w->stack.size] : FM_ABSENT;
        if (depth < 0)
            return depth == FM_MARK && n == FM_TO_MARK ? most : FM_ABSENT;
        if (depth > most)
            most = depth;
    }
    return most;
}

/* Each of these returns 1, 0 to end the walk, or the reason why the pickle is refused. */

static inline int fm_push_depth(fm_nesting *w, int32_t depth) {
    if (depth > w->limit)
        return FM_NESTING_DEEP;
    if (!fm_depths_grow(&w->stack, w->stack.size + 1))
        return FM_NESTING_NO_MEMORY;
    w->stack.items[w->stack.size++] = depth;
    return 1;
}

/* Push a new value that has others in it. */
static inline int fm_push_around(fm_nesting *w, int32_t inner) {
    return inner == FM_ABSENT ? 0 : fm_push_depth(w, inner + 1);
}

/* Put others into the uppermost value. */
static inline int fm_put_into(fm_nesting *w, int32_t inner) {
    int32_t outer = fm_take_depths(w, 1);
    if (inner == FM_ABSENT || outer == FM_ABSENT)
        return 0;
    return fm_push_depth(w, inner + 1 > outer ? inner + 1 : outer);
}

/* Put the uppermost value into the memo, as the unpickler does, whose table becomes as long as the
   largest place: more than `most` places are refused. */
static inline int fm_memoize(fm_nesting *w, uint64_t where, uint64_t most) {
    if (w->stack.size == 0 || w->stack.items[w->stack.size - 1] == FM_MARK)
        return 0;
    if (where > most)
        return FM_NESTING_MEMO;
    if (!fm_depths_grow(&w->memo, (size_t)where + 1))
        return FM_NESTING_NO_MEMORY;
    while (w->memo.size <= where)
        w->memo.items[w->memo.size++] = FM_ABSENT;
    w->memoized += w->memo.items[where] == FM_ABSENT;
    w->memo.items[where] = w->stack.items[w->stack.size - 1];
    return 1;
}

static inline int fm_recall(fm_nesting *w, uint64_t where) {
    if (where >= w->memo.size || w->memo.items[where] == FM_ABSENT)
        return 0;
    return fm_push_depth(w, w->memo.items[where]);
}

static inline uint64_t fm_pickled_decimal(const unsigned char *at) {
    uint64_t v = 0;
    while (*at >= '0' && *at <= '9' && v < UINT64_MAX / 20)
        v = v * 10 + (uint64_t)(*at++ - '0');
    return v;
}

/* One opcode; its argument is passed over. */
static inline int fm_nesting_step(fm_nesting *w, const unsigned char *start) {
    const unsigned char *argument = w->at + 1;
    uint64_t length = (uint64_t)(w->end - start);
    switch (*w->at++) {
    case '(': return fm_push_depth(w, FM_MARK);
    case '.': return 0;
    case '0':
        if (w->stack.size == 0)
            return 0;
        w->stack.size--;
        return 1;
    case '1': return fm_take_depths(w, FM_TO_MARK) != FM_ABSENT;
    case '2':
        if (w->stack.size == 0 || w->stack.items[w->stack.size - 1] == FM_MARK)
            return 0;
        return fm_push_depth(w, w->stack.items[w->stack.size - 1]);
    /* values that hold nothing */
    case 'N': case 0x88: case 0x89: case ')': case ']': case '}': case 0x8f: case 0x97:
        return fm_push_depth(w, 0);
    case 'K': case 0x82: return fm_pass(w, 1, 0) ? fm_push_depth(w, 0) : 0;
    case 'M': case 0x83: return fm_pass(w, 2, 0) ? fm_push_depth(w, 0) : 0;
    case 'J': case 0x84: return fm_pass(w, 4, 0) ? fm_push_depth(w, 0) : 0;
    case 'G': return fm_pass(w, 8, 0) ? fm_push_depth(w, 0) : 0;
    case 'U': case 'C': case 0x8a: case 0x8c: return fm_pass(w, 1, 1) ? fm_push_depth(w, 0) : 0;
    case 'T': case 'X': case 'B': case 0x8b: return fm_pass(w, 4, 1) ? fm_push_depth(w, 0) : 0;
    case 0x8d: case 0x8e: case 0x96: return fm_pass(w, 8, 1) ? fm_push_depth(w, 0) : 0;
    case 'F': case 'I': case 'L': case 'S': case 'V': case 'P':
        return fm_pass_line(w) ? fm_push_depth(w, 0) : 0;
    case 'c': return fm_pass_line(w) && fm_pass_line(w) ? fm_push_depth(w, 0) : 0;
    case 0x93: return fm_take_depths(w, 2) == FM_ABSENT ? 0 : fm_push_depth(w, 0);
    /* values that hold others */
    case 'i':
        if (!fm_pass_line(w) || !fm_pass_line(w))
            return 0;
        /* fall through */
    case 't': case 'l': case 'd': case 'o': case 0x91:
        return fm_push_around(w, fm_take_depths(w, FM_TO_MARK));
    case 0x85: case 'Q': return fm_push_around(w, fm_take_depths(w, 1));
    case 0x86: case 'R': case 0x81: return fm_push_around(w, fm_take_depths(w, 2));
    case 0x87: case 0x92: return fm_push_around(w, fm_take_depths(w, 3));
    case 'a': case 'b': return fm_put_into(w, fm_take_depths(w, 1));
    case 's': return fm_put_into(w, fm_take_depths(w, 2));
    case 'e': case 'u': case 0x90: return fm_put_into(w, fm_take_depths(w, FM_TO_MARK));
    /* the memo */
    case 'q': return fm_pass(w, 1, 0) ? fm_memoize(w, fm_pickled_uint(argument, 1), 255) : 0;
    case 'r': return fm_pass(w, 4, 0) ? fm_memoize(w, fm_pickled_uint(argument, 4), length) : 0;
    case 'p': return fm_pass_line(w) ? fm_memoize(w, fm_pickled_decimal(argument), length) : 0;
    case 0x94: return fm_memoize(w, w->memoized, length);
    case 'h': return fm_pass(w, 1, 0) ? fm_recall(w, fm_pickled_uint(argument, 1)) : 0;
    case 'j': return fm_pass(w, 4, 0) ? fm_recall(w, fm_pickled_uint(argument, 4)) : 0;
    case 'g': return fm_pass_line(w) ? fm_recall(w, fm_pickled_decimal(argument)) : 0;
    /* opcodes that leave the stack as it is */
    case 0x80: return fm_pass(w, 1, 0);
    case 0x95: return fm_pass(w, 8, 0);
    case 0x98: return 1;
    default: return 0;
    }
}

/* Return FM_NESTING_FINE where a pickle may be read, or the reason why not. */
static inline int fm_nesting_of(const char *data, size_t n, int32_t limit) {
    const unsigned char *start = (const unsigned char *)data;
    fm_nesting w;
    int outcome = 1;
    if (n <= (size_t)limit) /* each level takes a byte */
        return FM_NESTING_FINE;
    memset(&w, 0, sizeof w);
    w.at = start;
    w.end = start + n;
    w.limit = limit;
    while (outcome > 0 && w.at < w.end)
        outcome = fm_nesting_step(&w, start);
    free(w.stack.items);
    free(w.memo.items);
    return outcome < 0 ? outcome : FM_NESTING_FINE;
}

#endif
