/* Shared memory and the atomic steps that are made on it.

   Leaf functions: they never touch Python and may be called without the GIL.  Nothing read from
   shared memory is used as a pointer, a length or an offset: whoever maps it may write anything
   there, and then finds wrong numbers, but no way out of its cell. */
#ifndef FASTMGR_ARENA_H
#define FASTMGR_ARENA_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

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

/* Replace `*expected`; where something else is there, that is put into `*expected`. */
static inline int fm_replace(uint64_t *word, uint64_t *expected, uint64_t desired) {
    return __atomic_compare_exchange_n(
        word, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Add to an integer; 0, and nothing is changed, where the sum does not fit. */
#define FM_ADD(NAME, TYPE)                                                                       \
    static inline int NAME(TYPE *at, int64_t amount, TYPE *sum) {                                \
        TYPE before = __atomic_load_n(at, __ATOMIC_RELAXED);                                     \
        do {                                                                                     \
            if (__builtin_add_overflow(before, amount, sum))                                     \
                return 0;                                                                        \
        } while (!__atomic_compare_exchange_n(                                                   \
            at, &before, *sum, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));                          \
        return 1;                                                                                \
    }

FM_ADD(fm_add_i8, int8_t)
FM_ADD(fm_add_u8, uint8_t)
FM_ADD(fm_add_i16, int16_t)
FM_ADD(fm_add_u16, uint16_t)
FM_ADD(fm_add_i32, int32_t)
FM_ADD(fm_add_u32, uint32_t)
FM_ADD(fm_add_i64, int64_t)
FM_ADD(fm_add_u64, uint64_t)

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

/* ---- segments ----------------------------------------------------------- */

/* A new anonymous segment that cannot change its size; its descriptor, or -errno. */
static inline int fm_segment_new(size_t size) {
    int fd;
#ifdef __linux__
    fd = (int)syscall(SYS_memfd_create, "fastmgr", 3U /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0 ||
        fcntl(fd, 1033 /* F_ADD_SEALS */, 1 | 2 | 4 /* SEAL, SHRINK, GROW */) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
#else
    char name[32];
    snprintf(name, sizeof name, "/fastmgr-%lx-%x", (unsigned long)getpid(), (unsigned)arc4random());
    fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return -errno;
    shm_unlink(name);
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
#endif
    return fd;
}

/* How many bytes a file has now; 0 where that is not to be known. */
static inline uint64_t fm_file_size(int fd) {
    struct stat about;
    return fstat(fd, &about) < 0 || about.st_size < 0 ? 0 : (uint64_t)about.st_size;
}

/* Whether a descriptor from elsewhere can be mapped and will stay as large as that. */
static inline int fm_segment_fits(int fd, size_t offset, size_t size, int is_file) {
    struct stat about;
    if (fstat(fd, &about) < 0 || about.st_size < 0 || offset > SIZE_MAX - size ||
        (uint64_t)about.st_size < offset + size)
        return 0;
#ifdef __linux__
    if (!is_file) {
        int seals = fcntl(fd, 1034 /* F_GET_SEALS */);
        return seals >= 0 && (seals & 2);
    }
#else
    (void)is_file;
#endif
    return 1;
}

/* Map a part of a descriptor for reading and writing; NULL where that fails. */
static inline char *fm_map(int fd, size_t offset, size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    return at == MAP_FAILED ? NULL : (char *)at;
}

static inline void fm_unmap(char *at, size_t size) { (void)munmap(at, size); }

/* Have whole pages of a segment be zero, and their memory given back where that can be. */
static inline void fm_clear(char *at, size_t size) {
#ifdef MADV_REMOVE
    if (madvise(at, size, MADV_REMOVE) == 0)
        return;
#endif
    memset(at, 0, size);
}

/* ---- descriptors over a socket ------------------------------------------ */

static inline int fm_is_unix(int fd) {
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    memset(&name, 0, sizeof name);
    return getsockname(fd, (struct sockaddr *)&name, &size) == 0 && name.ss_family == AF_UNIX;
}

/* A message of one part with room for one descriptor beside it. */
typedef struct {
    struct iovec part;
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr head;
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
    ssize_t n = sendmsg(fd, &p.head, flags | MSG_NOSIGNAL);
    return n < 0 ? -(ssize_t)errno : n;
}

/* Receive bytes and the descriptor beside them (-1: none), which the caller then owns. */
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

/* ---- whether the server lives -------------------------------------------- */

/* The server's loop thread keeps its thread id in a word of shared memory.  On Linux the kernel
   itself takes it out when the thread ends, however it ends: a robust futex (robust_futex(7)).
   The list is the thread's own, so no library's robust mutex may be locked in it; no code but ours
   runs there.  Elsewhere the word falls only when the server ends in order. */
typedef struct {
#ifdef __linux__
    struct robust_list node;
    struct robust_list_head head;
    struct robust_list_head *before;
    size_t before_size;
#else
    int unused;
#endif
} fm_lifeline;

enum { FM_TID_MASK = 0x3fffffff };

static inline int fm_lives(const uint32_t *word) {
    return (__atomic_load_n(word, __ATOMIC_ACQUIRE) & FM_TID_MASK) != 0;
}

/* To be called by the thread whose life it is; `line` must stay where it is until the cut. */
static inline void fm_lifeline_tie(fm_lifeline *line, uint32_t *word) {
    memset(line, 0, sizeof *line);
#ifdef __linux__
    if (syscall(SYS_get_robust_list, 0, &line->before, &line->before_size) < 0)
        line->before = NULL;
    line->head.list.next = &line->node;
    line->node.next = &line->head.list;
    line->head.futex_offset = (long)((intptr_t)word - (intptr_t)&line->node);
    __atomic_store_n(word, (uint32_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    (void)syscall(SYS_set_robust_list, &line->head, sizeof line->head);
#else
    __atomic_store_n(word, 1U, __ATOMIC_SEQ_CST);
#endif
}

/* Whether the server lives, and has not ended the session whose number it keeps in `entry`. */
static inline int fm_serves(const uint32_t *alive, const uint64_t *entry, uint64_t session) {
    return fm_lives(alive) && fm_load(entry) == session;
}

/* By the same thread: the server ends in order. */
static inline void fm_lifeline_cut(fm_lifeline *line, uint32_t *word) {
    __atomic_store_n(word, 0U, __ATOMIC_SEQ_CST);
#ifdef __linux__
    if (line->before != NULL)
        (void)syscall(SYS_set_robust_list, line->before, line->before_size);
#else
    (void)line;
#endif
}

/* Beside the word that says that the server lives: how often a row of counters has grown.  Who has
   read another number asks the server what there is. */
static inline uint32_t fm_growths(const uint32_t *alive) {
    return __atomic_load_n(alive + 1, __ATOMIC_SEQ_CST);
}

static inline void fm_note_growth(uint32_t *alive) {
    (void)__atomic_fetch_add(alive + 1, 1U, __ATOMIC_SEQ_CST);
}

/* ---- which thread this is ------------------------------------------------ */

/* What the calling thread is to the server that `serial` stands for; 0: not known yet. */
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
