"""The mailbox as it is compiled for server and clients, one access to it at a time; see
`traced_slots`.

A message is a number of 8 bytes, and copying one to the mailbox is two accesses.
"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include "link/system.h"

    enum traced_name {
        IS_NONE, IS_LOAD, IS_OR, IS_AND, IS_REPLACE, IS_WRITE, IS_WRITTEN, IS_READ, IS_UNTIL_REPLY
    };

    static struct traced_state {
        uint64_t box[512];      /* only where something lies in it matters */
        int64_t past[64];
        int found, of;          /* how many of `past` were given, and how many there are */
        int next;               /* the first access that is not in `past` */
        uint64_t a, b;
        int waits;              /* looks until there is a reply are one access */
    } traced;

    /* What an access finds, or `otherwise` from the first on that is not known. */
    static int64_t traced_access(enum traced_name name, uint64_t a, uint64_t b, int64_t otherwise) {
        if (traced.found < traced.of)
            return traced.past[traced.found++];
        if (traced.next == IS_NONE) {
            traced.next = name;
            traced.a = a;
            traced.b = b;
        }
        return otherwise;
    }

    static uint64_t traced_load(const uint64_t *word) {
        if (word != traced.box)
            return sizeof(int64_t);     /* the message's size */
        if (traced.waits)
            return traced_access(IS_UNTIL_REPLY, 0, 0, 1) ? 8 /* FM_MAIL_REPLY */ : 0;
        return (uint64_t)traced_access(IS_LOAD, 0, 0, 0);
    }

    static int traced_replace(uint64_t *expected, uint64_t desired) {
        int64_t before = (int64_t)*expected;
        return traced_access(IS_REPLACE, *expected, desired, before) == before;
    }

    static void *traced_memcpy(void *to, const void *from, size_t size) {
        (void)from, (void)size;
        if ((uint64_t *)to >= traced.box && (uint64_t *)to < traced.box + 512) {
            traced_access(IS_WRITE, 0, 0, 0);
            traced_access(IS_WRITTEN, 0, 0, 0);
        } else {
            *(int64_t *)to = traced_access(IS_READ, 0, 0, 0);
        }
        return to;
    }

    #define __atomic_load_n(word, order) traced_load(word)
    #define __atomic_fetch_or(word, bits, order) (uint64_t)traced_access(IS_OR, bits, 0, 0)
    #define __atomic_fetch_and(word, bits, order) (uint64_t)traced_access(IS_AND, bits, 0, 0)
    #define __atomic_compare_exchange_n(word, expected, desired, weak, order, other) \
        traced_replace(expected, desired)
    #define memcpy traced_memcpy
    #define fm_look_begin(look, spinner, spare) ((void)(look), traced.waits = 1)
    #define fm_look_again(look) 0
    #define fm_look_end(look, found) (void)(traced.waits = 0)
    #include "link/mailbox.h"
    #undef __atomic_load_n
    #undef __atomic_fetch_or
    #undef __atomic_fetch_and
    #undef __atomic_compare_exchange_n
    #undef memcpy
    """
    enum: IS_NONE
    struct traced_state:
        uint64_t box[512]
        int64_t past[64]
        int found, of, next
        uint64_t a, b
        int waits
    traced_state traced
    ctypedef struct fm_mailbox:
        pass
    int fm_mail_post(fm_mailbox *box, const void *source, size_t size)
    ssize_t fm_mail_await(fm_mailbox *box, void *into, size_t room, void *spinner, int spare)
    size_t fm_mail_take(fm_mailbox *box, void *into, size_t room)
    void fm_mail_open(fm_mailbox *box)
    int fm_mail_shut(fm_mailbox *box)
    int fm_mail_answer(fm_mailbox *box, const void *source, size_t size)

ACCESSES = ("", "load", "or", "and", "replace", "write", "written", "read", "until_reply")


def traced_step(tuple past, str name):
    """Begin a step: its next access, as (name, a, b), or None; its result, or the message read."""
    cdef fm_mailbox *box = <fm_mailbox *>&traced.box[0]
    cdef int64_t message = 0
    traced.next, traced.waits, traced.found, traced.of = IS_NONE, 0, 0, <int>len(past)
    for k, value in enumerate(past):
        traced.past[<size_t>k] = value
    if name == "fm_mail_post":
        result = fm_mail_post(box, &message, 8) != 0
    elif name == "fm_mail_await":
        result = message if fm_mail_await(box, &message, 8, NULL, 0) > 0 else None
    elif name == "fm_mail_take":
        fm_mail_take(box, &message, 8)
        result = message
    elif name == "fm_mail_open":
        result = fm_mail_open(box)
    elif name == "fm_mail_shut":
        result = fm_mail_shut(box) != 0
    elif name == "fm_mail_answer":
        result = fm_mail_answer(box, &message, 8) != 0
    else:
        raise ValueError(name)
    if traced.next == IS_NONE:
        return None, result
    return (ACCESSES[traced.next], traced.a, traced.b), None
