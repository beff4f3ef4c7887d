/* A mailbox: one message at a time between a client's thread and the server, in memory they share.

   While both are awake a call needs no system call.  The client posts its request.  The server looks
   into the open mailboxes before it sleeps, and puts the reply in the request's place.  Over the
   socket go large messages, calls without a reply, and replies to a client that sleeps.

   One word says which side may touch the bytes, so that no wake-up is lost between mailbox and
   socket.  Before a thread of the server sleeps, it shuts the mailboxes that it looks into and serves
   the requests that it finds in them.  Before a client sleeps, it sets SLEEPS, and the server answers
   it over the socket.

       bits        the client                    the server
       OPEN        may post: sets REQUEST        may clear it, and set it again, beside the others
       REQUEST     may set SLEEPS                sets TAKEN, and reads
       TAKEN       may set SLEEPS                sets REPLY, or clears all but OPEN where SLEEPS is set
       REPLY       reads; clears all but OPEN    -

   Leaf functions, as in system.h.  The peer may write anything into the memory at any moment.  So
   each side copies a message, as much as there is room for, and looks at the copy alone. */
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

    FM_MAIL_LOOKS = 4, /* the server looks at the sockets once in so many looks without mail */
    FM_MAILBOX_SIZE = 2048, /* the first buffer of a Stream has room for that */
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

/* Copy the message out and return its size; 0 where the memory states one that is too large. */
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

/* Post a request; return 0 where the client has to send it over the socket. */
static inline int fm_mail_post(fm_mailbox *box, const void *from, size_t size) {
    uint64_t open = FM_MAIL_OPEN;
    if (size > FM_MAIL_ROOM || fm_mail_state(box) != open)
        return 0;
    fm_mail_put(box, from, size);
    return __atomic_compare_exchange_n(
        &box->state, &open, FM_MAIL_OPEN | FM_MAIL_REQUEST, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Wait for the reply and return its size.  0 says that the server sends the reply over the socket;
   -EAGAIN that it is time to sleep, and that the server will send the reply over the socket. */
static inline ssize_t fm_mail_await(
    fm_mailbox *box, void *into, size_t room, fm_spinner *s, int spare) {
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

/* Read the request that is there; see `fm_mail_get`. */
static inline size_t fm_mail_take(fm_mailbox *box, void *into, size_t room) {
    __atomic_fetch_or(&box->state, FM_MAIL_TAKEN, __ATOMIC_SEQ_CST);
    return fm_mail_get(box, into, room);
}

/* Let requests be posted. */
static inline void fm_mail_open(fm_mailbox *box) {
    __atomic_fetch_or(&box->state, FM_MAIL_OPEN, __ATOMIC_SEQ_CST);
}

/* Let no request be posted from now on; return whether there is one. */
static inline int fm_mail_shut(fm_mailbox *box) {
    return fm_mail_is_request(
        __atomic_fetch_and(&box->state, ~(uint64_t)FM_MAIL_OPEN, __ATOMIC_SEQ_CST));
}

/* Reply to the request that was read; size 0 tells the client that the reply comes over the socket.
   Return 0 where the client sleeps: then it waits for the socket alone. */
static inline int fm_mail_answer(fm_mailbox *box, const void *from, size_t size) {
    fm_mail_put(box, from, size);
    if (!(__atomic_fetch_or(&box->state, FM_MAIL_REPLY, __ATOMIC_SEQ_CST) & FM_MAIL_SLEEPS))
        return 1;
    __atomic_fetch_and(&box->state, FM_MAIL_OPEN, __ATOMIC_SEQ_CST);
    return 0;
}

/* The open mailboxes among the connections that the server's loop reads from. */
enum {
    FM_MAIL_MOST = 64,        /* open mailboxes; also the events that are taken at a time */
    FM_MAIL_TURNS = 16,       /* after so many turns with mail the loop looks at the sockets, too */
    FM_MAIL_SHUT_AFTER = 4096 /* after so many turns the loop shuts all: idle ones then stay shut */
};

typedef struct {
    struct {
        fm_mailbox *box;
        int fd;
    } open[FM_MAIL_MOST];
    int count;
    unsigned turns;
    /* Of the loop: when its turn began (0: it waits), when this while began, and the longest turn of
       this while and of the one before. */
    int64_t woke, since, longest, before;
} fm_mailroom;

#define FM_WHILE_NS INT64_C(10000000000) /* a while: 10 s */

/* The loop's turn ends: how long was it? */
static inline void fm_mailroom_rest(fm_mailroom *room, int64_t now) {
    if (now - room->since > FM_WHILE_NS) {
        room->before = now - room->since > 2 * FM_WHILE_NS ? 0 : room->longest;
        room->longest = 0;
        room->since = now;
    }
    if (room->woke && now - room->woke > room->longest)
        room->longest = now - room->woke;
    room->woke = 0;
}

/* The longest turn of the last 10 to 20 seconds, in nanoseconds, with the one that is under way. */
static inline int64_t fm_mailroom_lag(const fm_mailroom *room) {
    int64_t now = fm_now_ns(), age = now - room->since;
    int64_t lag = age < 2 * FM_WHILE_NS ? room->longest : 0;
    if (age < FM_WHILE_NS && room->before > lag)
        lag = room->before;
    if (room->woke && now - room->woke > lag)
        lag = now - room->woke;
    return lag;
}

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

/* Look no more for that connection's mail; the caller shuts its mailbox. */
static inline void fm_mailroom_forget(fm_mailroom *room, int fd) {
    for (int i = 0; i < room->count; i++)
        if (room->open[i].fd == fd) {
            room->open[i] = room->open[--room->count];
            return;
        }
}

/* Make an event of each mailbox that has a request; where `shut` is set, shut all mailboxes. */
static inline int fm_mailroom_look(fm_mailroom *room, fm_event *events, int shut) {
    int found = 0;
    for (int i = 0; i < room->count; i++)
        if (shut ? fm_mail_shut(room->open[i].box) : fm_mail_is_there(room->open[i].box)) {
            events[found].fd = room->open[i].fd;
            events[found++].ready = FM_MAIL;
        }
    if (shut)
        room->count = 0;
    return found;
}

/* Look for events until it is time to sleep; return 0 then.  `events` has room for FM_MAIL_MOST. */
static inline int fm_mailroom_soon(
    fm_mailroom *room, fm_poller *p, fm_event *events, fm_spinner *s, int spare) {
    fm_look look;
    int n;
    if (++room->turns % FM_MAIL_SHUT_AFTER == 0 && (n = fm_mailroom_look(room, events, 1)) > 0)
        return n;
    if (!fm_look_begin(&look, s, spare))
        return 0;
    fm_mailroom_rest(room, look.start);
    do {
        n = room->turns % FM_MAIL_TURNS ? fm_mailroom_look(room, events, 0) : 0;
        if (n == 0 && (room->count == 0 || look.looks % FM_MAIL_LOOKS == 0))
            n = fm_poller_wait(p, events, FM_MAIL_MOST, 0);
        if (n > 0)
            break;
        if (room->turns % FM_MAIL_TURNS == 0)
            room->turns++;
    } while (fm_look_again(&look));
    fm_look_end(&look, n > 0);
    if (n > 0)
        room->woke = look.before;
    return n > 0 ? n : 0;
}

/* Sleep until there are events or the time is up. */
static inline int fm_mailroom_sleep(
    fm_mailroom *room, fm_poller *p, fm_event *events, int timeout_ms) {
    int n = fm_mailroom_look(room, events, 1);
    if (n > 0)
        return n;
    if (room->woke)
        fm_mailroom_rest(room, fm_now_ns());
    n = fm_poller_wait(p, events, FM_MAIL_MOST, timeout_ms);
    room->woke = fm_now_ns();
    return n;
}

#endif
