/* A mailbox: one message at a time between a client's thread and the server, in memory they share.

   While both are awake a call needs no system call.  The client posts its request, and the server,
   which looks into the open mailboxes before it sleeps, puts the reply in its place.  The socket
   stays the way of everything else: of what is large, of what needs no reply, of whoever sleeps.

   One word decides who may touch the bytes, and no wake-up can be lost between the two ways:
   before one of the server's threads sleeps it shuts the mailboxes that it looks into, and finds
   what was posted until then; a client that goes to sleep says so, and is answered over the socket.

       bits        the client                    the server
       OPEN        may post: sets REQUEST        may clear it, and set it again, beside the others
       REQUEST     may set SLEEPS                sets TAKEN, and reads
       TAKEN       may set SLEEPS                sets REPLY, or clears all but OPEN where SLEEPS is set
       REPLY       reads; clears all but OPEN    -

   Leaf functions, as in system.h.  Either side may find anything there: what is read is copied before
   it is looked at, and only so much as there is room for. */
#ifndef FASTMGR_MAILBOX_H
#define FASTMGR_MAILBOX_H

#include "link/system.h"

enum { FM_MAIL = 8 }; /* in fm_event.ready: there is a request in the mailbox */

enum {
    FM_MAIL_OPEN = 1,
    FM_MAIL_REQUEST = 2,
    FM_MAIL_SLEEPS = 4,
    FM_MAIL_REPLY = 8,
    FM_MAIL_TAKEN = 16,

    FM_MAIL_LOOKS = 4, /* of the server's without mail, for one at the sockets */
    FM_MAILBOX_SIZE = 2048, /* what the buffer of a Stream has room for at once */
    FM_MAIL_ROOM = FM_MAILBOX_SIZE - 16
};

/* A small call and its reply stay within one cache line. */
typedef struct {
    uint64_t state;
    uint64_t size; /* of the message; in a reply 0: it comes over the socket */
    char bytes[FM_MAIL_ROOM];
} fm_mailbox;

static inline uint64_t fm_mail_state(const fm_mailbox *box) {
    return __atomic_load_n(&box->state, __ATOMIC_SEQ_CST);
}

static inline void fm_mail_put(fm_mailbox *box, const void *from, size_t size) {
    memcpy(box->bytes, from, size);
    box->size = size;
}

/* Copy the message out; its size, 0 where it says one that cannot be. */
static inline size_t fm_mail_get(const fm_mailbox *box, void *into, size_t room) {
    uint64_t size = __atomic_load_n(&box->size, __ATOMIC_RELAXED);
    if (size > FM_MAIL_ROOM || size > room)
        return 0;
    memcpy(into, box->bytes, (size_t)size);
    return (size_t)size;
}

static inline int fm_mail_is_request(uint64_t state) {
    return (state & (FM_MAIL_REQUEST | FM_MAIL_TAKEN | FM_MAIL_REPLY)) == FM_MAIL_REQUEST;
}

/* Whether there is a request that the server has not taken. */
static inline int fm_mail_is_there(const fm_mailbox *box) {
    return fm_mail_is_request(fm_mail_state(box));
}

/* ---- the client ---------------------------------------------------------- */

/* Post a request; 0 where it has to go over the socket. */
static inline int fm_mail_post(fm_mailbox *box, const void *from, size_t size) {
    uint64_t open = FM_MAIL_OPEN;
    if (size > FM_MAIL_ROOM || fm_mail_state(box) != open)
        return 0;
    fm_mail_put(box, from, size);
    return __atomic_compare_exchange_n(
        &box->state, &open, FM_MAIL_OPEN | FM_MAIL_REQUEST, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Wait for the reply; its size, 0 where it comes over the socket in place of the mailbox, -EAGAIN
   where it is time to sleep: then it comes over the socket, too. */
static inline ssize_t fm_mail_await(
    fm_mailbox *box, void *into, size_t room, fm_spinner *s, int spare
) {
    fm_look look;
    int there = 0;
    if (fm_look_begin(&look, s, spare)) {
        do
            there = (fm_mail_state(box) & FM_MAIL_REPLY) != 0;
        while (!there && fm_look_again(&look));
        fm_look_end(&look, there);
    }
    if (!there &&
        !(__atomic_fetch_or(&box->state, FM_MAIL_SLEEPS, __ATOMIC_SEQ_CST) & FM_MAIL_REPLY))
        return -EAGAIN;
    size_t size = fm_mail_get(box, into, room);
    __atomic_fetch_and(&box->state, FM_MAIL_OPEN, __ATOMIC_SEQ_CST);
    return (ssize_t)size;
}

/* ---- the server ---------------------------------------------------------- */

/* Read the request that is there; its size, 0 where that cannot be one. */
static inline size_t fm_mail_take(fm_mailbox *box, void *into, size_t room) {
    __atomic_fetch_or(&box->state, FM_MAIL_TAKEN, __ATOMIC_SEQ_CST);
    return fm_mail_get(box, into, room);
}

/* Let requests be posted. */
static inline void fm_mail_open(fm_mailbox *box) {
    __atomic_fetch_or(&box->state, FM_MAIL_OPEN, __ATOMIC_SEQ_CST);
}

/* Let nothing be posted from now; whether there is a request. */
static inline int fm_mail_shut(fm_mailbox *box) {
    return fm_mail_is_request(
        __atomic_fetch_and(&box->state, ~(uint64_t)FM_MAIL_OPEN, __ATOMIC_SEQ_CST));
}

/* Reply to the request that was read, with no bytes where they come over the socket; 0 where the
   client sleeps, and that is the only way. */
static inline int fm_mail_answer(fm_mailbox *box, const void *from, size_t size) {
    fm_mail_put(box, from, size);
    if (!(__atomic_fetch_or(&box->state, FM_MAIL_REPLY, __ATOMIC_SEQ_CST) & FM_MAIL_SLEEPS))
        return 1;
    __atomic_fetch_and(&box->state, FM_MAIL_OPEN, __ATOMIC_SEQ_CST);
    return 0;
}

/* The open mailboxes of a server: of the connections that its loop reads from. */
enum {
    FM_MAIL_MOST = 64,        /* looked into at a time; it is also how many events are taken */
    FM_MAIL_TURNS = 16,       /* with mail, until the sockets are looked at, too */
    FM_MAIL_SHUT_AFTER = 4096 /* turns, after which who uses his no more is not looked for */
};

typedef struct {
    struct {
        fm_mailbox *box;
        int fd;
    } open[FM_MAIL_MOST];
    int count;
    unsigned turns;
} fm_mailroom;

static inline void fm_mailroom_open(fm_mailroom *room, fm_mailbox *box, int fd) {
    for (int i = 0; i < room->count; i++)
        if (room->open[i].fd == fd)
            return;
    if (room->count == FM_MAIL_MOST)
        return;
    room->open[room->count].box = box;
    room->open[room->count++].fd = fd;
    fm_mail_open(box);
}

/* Look no more for that connection's mail; to shut its mailbox is the caller's. */
static inline void fm_mailroom_forget(fm_mailroom *room, int fd) {
    for (int i = 0; i < room->count; i++)
        if (room->open[i].fd == fd) {
            room->open[i] = room->open[--room->count];
            return;
        }
}

static inline int fm_mailroom_look(const fm_mailroom *room, fm_event *events) {
    int found = 0;
    for (int i = 0; i < room->count; i++)
        if (fm_mail_is_there(room->open[i].box)) {
            events[found].fd = room->open[i].fd;
            events[found++].ready = FM_MAIL;
        }
    return found;
}

/* Shut all of them; those with a request are events. */
static inline int fm_mailroom_shut_all(fm_mailroom *room, fm_event *events) {
    int found = 0;
    for (int i = 0; i < room->count; i++)
        if (fm_mail_shut(room->open[i].box)) {
            events[found].fd = room->open[i].fd;
            events[found++].ready = FM_MAIL;
        }
    room->count = 0;
    return found;
}

/* Look for events until it is time to sleep; 0 then.  There must be room for FM_MAIL_MOST. */
static inline int fm_mailroom_soon(
    fm_mailroom *room, fm_poller *p, fm_event *events, fm_spinner *s, int spare
) {
    fm_look look;
    int n;
    if (++room->turns % FM_MAIL_SHUT_AFTER == 0 && (n = fm_mailroom_shut_all(room, events)) > 0)
        return n;
    if (!fm_look_begin(&look, s, spare))
        return 0;
    do {
        n = room->turns % FM_MAIL_TURNS ? fm_mailroom_look(room, events) : 0;
        if (n == 0 && (room->count == 0 || look.looks % FM_MAIL_LOOKS == 0))
            n = fm_poller_wait(p, events, FM_MAIL_MOST, 0);
        if (n > 0) {
            fm_look_end(&look, 1);
            return n;
        }
        if (room->turns % FM_MAIL_TURNS == 0)
            room->turns++;
    } while (fm_look_again(&look));
    fm_look_end(&look, 0);
    return 0;
}

/* It is time to sleep, until there are events or the time is up. */
static inline int fm_mailroom_sleep(
    fm_mailroom *room, fm_poller *p, fm_event *events, int timeout_ms
) {
    int n = fm_mailroom_shut_all(room, events);
    return n > 0 ? n : fm_poller_wait(p, events, FM_MAIL_MOST, timeout_ms);
}

#endif
