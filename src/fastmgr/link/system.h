/* The calls of POSIX that differ between systems, how long a thread looks before it sleeps, and the
   poller, which says what descriptors are ready.

   Leaf functions: they never touch Python, may be called without the GIL, and return a count or
   -errno. */
#ifndef FASTMGR_OS_H
#define FASTMGR_OS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* POLLRDHUP */
#endif

#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE, and Python ignores SIGPIPE */
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

/* Whether an error says that a sandbox refuses the system call. */
static inline int fm_refused(int error) {
    return error == ENOSYS || error == EPERM || error == EACCES;
}

/* What a leaf function returns for what a system call has returned. */
static inline ssize_t fm_result(ssize_t n) { return n < 0 ? -(ssize_t)errno : n; }

static inline ssize_t fm_recv(int fd, void *into, size_t room, int flags) {
    return fm_result(recv(fd, into, room, flags));
}

static inline ssize_t fm_send(int fd, const void *from, size_t size, int flags) {
    return fm_result(send(fd, from, size, flags | MSG_NOSIGNAL));
}

/* Send one buffer and then another; a sandbox that refuses sendmsg lets send pass. */
static inline ssize_t fm_send_two(
    int fd, const void *first, size_t first_size, const void *second, size_t second_size, int flags) {
    struct iovec parts[2] = {{(void *)(uintptr_t)first, first_size},
                             {(void *)(uintptr_t)second, second_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t n = sendmsg(fd, &message, flags | MSG_NOSIGNAL);
    if (n < 0 && fm_refused(errno))
        return first_size ? fm_send(fd, first, first_size, flags)
                          : fm_send(fd, second, second_size, flags);
    return fm_result(n);
}

/* ---- descriptors over a socket ------------------------------------------ */

static inline int fm_is_unix(int fd) {
    struct sockaddr_storage name = {0};
    socklen_t size = sizeof name;
    return getsockname(fd, (struct sockaddr *)&name, &size) == 0 && name.ss_family == AF_UNIX;
}

/* A message of one part with room for one descriptor beside it. */
typedef struct {
    struct msghdr head;
    struct iovec part;
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
} fm_passing;

static inline void fm_passing_begin(fm_passing *p, void *data, size_t size) {
    memset(p, 0, sizeof *p);
    p->part.iov_base = data;
    p->part.iov_len = size;
    p->head.msg_iov = &p->part;
    p->head.msg_iovlen = 1;
    p->head.msg_control = p->control.room;
    p->head.msg_controllen = sizeof p->control.room;
}

/* Send bytes with a descriptor beside the first of them. */
static inline ssize_t fm_send_fd(int fd, const void *from, size_t size, int passed, int flags) {
    fm_passing p;
    fm_passing_begin(&p, (void *)(uintptr_t)from, size);
    struct cmsghdr *beside = CMSG_FIRSTHDR(&p.head);
    beside->cmsg_level = SOL_SOCKET;
    beside->cmsg_type = SCM_RIGHTS;
    beside->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(beside), &passed, sizeof passed);
    return fm_result(sendmsg(fd, &p.head, flags | MSG_NOSIGNAL));
}

/* Receive bytes and the descriptor beside them, which the caller then owns; -1 for none. */
static inline ssize_t fm_recv_fd(int fd, void *into, size_t room, int *passed) {
    fm_passing p;
    fm_passing_begin(&p, into, room);
    *passed = -1;
    ssize_t n = recvmsg(fd, &p.head, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -(ssize_t)errno;
    struct cmsghdr *beside = CMSG_FIRSTHDR(&p.head);
    if (beside != NULL && beside->cmsg_level == SOL_SOCKET && beside->cmsg_type == SCM_RIGHTS &&
        beside->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(passed, CMSG_DATA(beside), sizeof *passed);
        (void)fcntl(*passed, F_SETFD, FD_CLOEXEC);
    }
    return n;
}

/* The number of bytes that have arrived and were not received. */
static inline size_t fm_unread(int fd) {
    int n;
    return ioctl(fd, FIONREAD, &n) < 0 || n < 0 ? 0 : (size_t)n;
}

static inline void fm_shut_reading(int fd) { (void)shutdown(fd, SHUT_RD); }

static inline void fm_shutdown(int fd) { (void)shutdown(fd, SHUT_RDWR); }

/* Whether the peer has closed, and all that it sent was received. */
static inline int fm_hung_up(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* Over TCP: acknowledge now what has been received.  A stdlib peer has Nagle's algorithm on: it sends
   the second of two messages only when the first is acknowledged, which can be 40 ms later. */
static inline void fm_acknowledge(int fd) {
#ifdef TCP_QUICKACK
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
#else
    (void)fd;
#endif
}

/* Wait until `fd` is ready for `events`: 1, 0 where the time is up, or -errno. */
static inline int fm_poll_one(int fd, short events, int timeout_ms) {
    struct pollfd one = {fd, events, 0};
    return (int)fm_result(poll(&one, 1, timeout_ms));
}

static inline int fm_receive_timeout(int fd, long milliseconds) {
    struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};
    return (int)fm_result(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
}

static inline int64_t fm_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Let `close` reset the connection at once, even if the peer has not received all that was sent. */
static inline void fm_reset_at_close(int fd) {
    struct linger at_once = {1, 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* Say that nothing more is sent, and wait until the peer has closed or the time is up.  What the
   peer sends meanwhile is dropped. */
static inline void fm_await_end(int fd, int timeout_ms) {
    char waste[4096];
    int64_t end = fm_now_ns() + timeout_ms * INT64_C(1000000);
    if (shutdown(fd, SHUT_WR) < 0)
        return;
    for (;;) {
        ssize_t n = recv(fd, waste, sizeof waste, MSG_DONTWAIT);
        int64_t left = (end - fm_now_ns()) / 1000000;
        if (n == 0 || left <= 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            return;
        if (n < 0)
            fm_poll_one(fd, POLLIN, (int)left);
    }
}

/* Let threads that start from now on allocate in one heap.  glibc gives each thread a heap of its
   own, up to eight a processor, and gives little of their free memory back to the system. */
static inline void fm_share_heap(void) {
#if defined(__GLIBC__) && defined(M_ARENA_MAX)
    (void)mallopt(M_ARENA_MAX, 1);
#endif
}

/* The kernel interrupts the system call of one thread for a signal, and Python runs the handler in
   the main thread, which may be another.  So a main thread sleeps for no longer than this. */
enum { FM_SIGNALS_MS = 500 };

/* ---- looking before sleeping -------------------------------------------- */

/* To wake a thread costs more than to serve a small call.  So a thread that waits looks again for a
   while before it sleeps.  If there is a processor to spare it spins: it looks again at once.  If
   there is none it yields: it lets other threads run, which mostly do what it waits for, and looks
   then.  Spinning and yielding are two habits.  The account of each has the nanoseconds that it has
   saved and wasted.  A habit that has no credit left is skipped for a number of waits, which doubles
   with each failure. */
typedef struct {
    int64_t credit;
    unsigned skip, backoff; /* waits that are still to be skipped; how many the last failure cost */
} fm_habit;

typedef struct {
    fm_habit spinning, yielding;
    int shares; /* the last wait ended with a yield: both ends seem to share one processor */
} fm_spinner;

/* One wait. */
typedef struct {
    fm_spinner *spinner;
    fm_habit *habit;        /* the one that it follows */
    int spare;              /* there is a processor to spare */
    int looks, yield_after; /* looks so far; looks until a spinning thread yields */
    int64_t start, before;  /* when the wait began, and when the thread read the clock last */
} fm_look;

enum {
    FM_SPIN_NS = 60 * 1000,      /* a thread spins for so long, */
    FM_SPIN_LOOKS = 32,          /* and yields once after so many looks */
    FM_SPIN_LOST_NS = 30 * 1000, /* a look that took so long: another thread had the processor */
    FM_SPIN_GAIN_NS = 30 * 1000, /* credit for a wait that found something */
    FM_SPIN_MOST_NS = 240 * 1000,
    FM_YIELDS = 4,                  /* a thread yields at least so often, */
    FM_YIELD_NS = 250 * 1000,       /* and for so long */
    FM_YIELD_LOST_NS = 4000 * 1000, /* a wait that took so long: other threads had other work */
    FM_YIELD_GAIN_NS = 5 * 1000,
    FM_YIELD_MOST_NS = 10000 * 1000,
    FM_HABIT_FIRST_SKIP = 16,
    FM_HABIT_LAST_SKIP = 4096
};

/* Begin a wait; return 0 where the thread had better sleep at once. */
static inline int fm_look_begin(fm_look *look, fm_spinner *s, int spare) {
    look->spinner = s;
    look->habit = spare ? &s->spinning : &s->yielding;
    if (look->habit->skip > 0) {
        look->habit->skip--;
        return 0;
    }
    look->spare = spare;
    look->looks = 0;
    look->yield_after = s->shares ? 1 : FM_SPIN_LOOKS;
    look->start = look->before = fm_now_ns();
    return 1;
}

/* Spin or yield between two looks; return 0 where it is time to sleep.

   A thread that spins reads the clock and does not PAUSE: a hypervisor takes the processor away from
   a thread that pauses for long.  It yields now and then, for the other end may wait for this very
   processor.  Then both threads can run, and the scheduler, which seldom moves sleeping threads,
   moves one of them. */
static inline int fm_look_again(fm_look *look) {
    look->looks++;
    if (!look->spare) {
        sched_yield();
        return look->looks <= FM_YIELDS || fm_now_ns() - look->start < FM_YIELD_NS;
    }
    if (look->yield_after == 0)
        look->yield_after = FM_SPIN_LOOKS;
    int yields = --look->yield_after == 0;
    if (yields)
        sched_yield();
    int64_t now = fm_now_ns(), away = now - look->before;
    look->before = now;
    if (yields)
        look->start += away;
    return now - look->start < FM_SPIN_NS && away < (yields ? FM_YIELD_NS : FM_SPIN_LOST_NS);
}

/* End a wait, and enter in the habit's account whether it found something (`hit`). */
static inline void fm_look_end(fm_look *look, int hit) {
    fm_habit *h = look->habit;
    int64_t most = look->spare ? FM_SPIN_MOST_NS : FM_YIELD_MOST_NS;
    int64_t cost = hit && look->spare ? 0 : (look->before = fm_now_ns()) - look->start;
    if (look->spare)
        look->spinner->shares = hit && look->yield_after == 0;
    if (hit && cost < FM_YIELD_LOST_NS) {
        h->credit += look->spare ? FM_SPIN_GAIN_NS : FM_YIELD_GAIN_NS;
        if (h->credit > most)
            h->credit = most;
        if (h->credit > most / 8)
            h->backoff = 0;
        return;
    }
    h->credit -= cost;
    if (h->credit < 0) {
        h->credit = 0;
        h->backoff = h->backoff ? h->backoff * 2 : FM_HABIT_FIRST_SKIP;
        if (h->backoff > FM_HABIT_LAST_SKIP)
            h->backoff = FM_HABIT_LAST_SKIP;
        h->skip = h->backoff;
    }
}

/* ---- the poller --------------------------------------------------------- */

/* Which descriptors are ready: by epoll(7) on Linux, elsewhere by poll(2).  FASTMGR_POLLER=poll asks
   for poll(2) on Linux, too, so that it is tested there.  Both use the same bits. */
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif
#ifdef __linux__
_Static_assert(
    (int)EPOLLIN == POLLIN && (int)EPOLLOUT == POLLOUT && (int)EPOLLERR == POLLERR &&
    (int)EPOLLHUP == POLLHUP && (int)EPOLLRDHUP == POLLRDHUP, "the bits of epoll and poll differ");
#endif

enum { FM_READ = 1, FM_WRITE = 2, FM_HANGUP = 4 };

typedef struct {
    int fd;
    int ready; /* FM_READ | FM_WRITE | FM_HANGUP */
} fm_event;

typedef struct {
    int epoll;          /* -1: poll(2) is used */
    struct pollfd *fds; /* owned; only for poll(2) */
    size_t count, capacity;
} fm_poller;

static inline short fm_poll_bits(int interest) {
    return (short)((interest & FM_READ ? POLLIN : 0) | (interest & FM_WRITE ? POLLOUT : 0) |
                   (interest & FM_HANGUP ? POLLRDHUP : 0));
}

static inline fm_event fm_event_of(int fd, unsigned bits) {
    fm_event event = {fd, (bits & (POLLIN | POLLERR) ? FM_READ : 0) | (bits & POLLOUT ? FM_WRITE : 0) |
                          (bits & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL) ? FM_HANGUP : 0)};
    return event;
}

static inline void fm_poller_open(fm_poller *p, int use_poll) {
    memset(p, 0, sizeof *p);
    p->epoll = -1;
#ifdef __linux__
    /* A sandbox may refuse it, or descriptors may have run out: poll(2) needs none. */
    if (!use_poll)
        p->epoll = epoll_create1(EPOLL_CLOEXEC);
#else
    (void)use_poll;
#endif
}

static inline void fm_poller_close(fm_poller *p) {
    if (p->epoll >= 0)
        close(p->epoll);
    p->epoll = -1;
    free(p->fds);
    p->fds = NULL;
    p->count = p->capacity = 0;
}

/* Set what is wanted of `fd`, which is new to the poller or not. */
static inline int fm_poller_set(fm_poller *p, int fd, int interest, int is_new) {
#ifdef __linux__
    if (p->epoll >= 0) {
        struct epoll_event event = {.events = (uint32_t)fm_poll_bits(interest), .data.fd = fd};
        int change = is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
        return (int)fm_result(epoll_ctl(p->epoll, change, fd, &event));
    }
#endif
    (void)is_new;
    struct pollfd wanted = {fd, fm_poll_bits(interest), 0};
    size_t i = 0;
    while (i < p->count && p->fds[i].fd != fd)
        i++;
    if (i == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 64;
        struct pollfd *grown = realloc(p->fds, capacity * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        p->fds = grown;
        p->capacity = capacity;
    }
    p->count += i == p->count;
    p->fds[i] = wanted;
    return 0;
}

/* Forget `fd`.  The caller closes it only then: else a copy of the descriptor in a forked child keeps
   the registration in epoll. */
static inline void fm_poller_forget(fm_poller *p, int fd) {
#ifdef __linux__
    if (p->epoll >= 0) {
        struct epoll_event unused;
        epoll_ctl(p->epoll, EPOLL_CTL_DEL, fd, &unused);
        return;
    }
#endif
    for (size_t i = 0; i < p->count; i++)
        if (p->fds[i].fd == fd) {
            p->fds[i] = p->fds[--p->count];
            return;
        }
}

/* Wait for events; return their number (at most `room`), 0 where the time is up, or -errno. */
static inline int fm_poller_wait(fm_poller *p, fm_event *events, int room, int timeout_ms) {
    int n, found = 0;
#ifdef __linux__
    if (p->epoll >= 0) {
        struct epoll_event ready[64];
        n = epoll_wait(p->epoll, ready, room < 64 ? room : 64, timeout_ms);
        for (; found < n; found++)
            events[found] = fm_event_of(ready[found].data.fd, ready[found].events);
        return (int)fm_result(n);
    }
#endif
    n = poll(p->fds, (nfds_t)p->count, timeout_ms);
    if (n <= 0)
        return (int)fm_result(n);
    for (size_t i = 0; i < p->count && found < room; i++)
        if (p->fds[i].revents)
            events[found++] = fm_event_of(p->fds[i].fd, (unsigned short)p->fds[i].revents);
    return found;
}

#endif
