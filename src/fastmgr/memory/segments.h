/* Memory that processes share, and whether the server that has made it lives.

   Leaf functions: they never touch Python and may be called without the GIL. */
#ifndef FASTMGR_SEGMENTS_H
#define FASTMGR_SEGMENTS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include "atomics.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* ---- segments ----------------------------------------------------------- */

/* Make an anonymous segment.  On Linux it is sealed: nobody can change its size, nor, unless it is
   `open`, its seals.  Returns its descriptor, which programs that are executed do not inherit, or
   -errno. */
static inline int fm_segment_new(size_t size, int open) {
#ifdef __linux__
    int fd = (int)syscall(SYS_memfd_create, "fastmgr", 3U /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
    int command = 1033 /* F_ADD_SEALS */, flags = 2 | 4 | (open ? 0 : 1) /* SHRINK, GROW, SEAL */;
#else
    char name[32];
    snprintf(name, sizeof name, "/fastmgr-%lx-%x", (unsigned long)getpid(), (unsigned)arc4random());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    int command = F_SETFD, flags = FD_CLOEXEC;
    if (fd >= 0)
        shm_unlink(name);
#endif
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, command, flags) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    (void)open;
    return fd;
}

/* Let nobody write to a segment by a mapping that is yet to be made, where the system can do that
   (Linux 5.1). */
static inline void fm_segment_protect(int fd) {
#ifdef __linux__
    if (fcntl(fd, 1033 /* F_ADD_SEALS */, 0x10 | 1 /* FUTURE_WRITE, SEAL */) < 0)
        (void)fcntl(fd, 1033, 1);
#else
    (void)fd;
#endif
}

/* How many bytes a file has now; 0 where the system does not say. */
static inline uint64_t fm_file_size(int fd) {
    struct stat about;
    return fstat(fd, &about) < 0 || about.st_size < 0 ? 0 : (uint64_t)about.st_size;
}

/* Whether what another process has passed has that part, and nobody can cut it.  A file can be cut:
   the server looks at its size again and again. */
static inline int fm_segment_fits(int fd, size_t offset, size_t size, int is_file) {
    if (offset > SIZE_MAX - size || fm_file_size(fd) < offset + size)
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

/* Map a part of a descriptor, for reading and writing or for reading only; NULL where that fails. */
static inline char *fm_map(int fd, size_t offset, size_t size, int read_only) {
    int access = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    void *at = mmap(NULL, size, access, MAP_SHARED, fd, (off_t)offset);
    return at == MAP_FAILED ? NULL : (char *)at;
}

/* Put memory of this process alone in the place of a mapping; -1 where that fails. */
static inline int fm_part(char *at, size_t size) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    return mmap(at, size, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED ? -1 : 0;
}

/* Make a part of a segment zero, and give the memory of whole pages back where the system can do
   that.  Its pages may be larger than ours, as on many ARM machines, and it takes the end of a part
   for that of a page: it would clear what follows, too. */
static inline void fm_clear(char *at, size_t size) {
#ifdef MADV_REMOVE
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (page - (uintptr_t)at % page) % page, whole;
    if (size >= before + page) {
        whole = (size - before) / page * page;
        if (madvise(at + before, whole, MADV_REMOVE) == 0) {
            memset(at, 0, before);
            memset(at + before + whole, 0, size - before - whole);
            return;
        }
    }
#endif
    memset(at, 0, size);
}

/* ---- whether the server lives -------------------------------------------- */

/* A word of shared memory has the id of the server's loop thread.  On Linux the kernel clears the
   id when the thread ends, however it ends: the word is a robust futex (get_robust_list(2)).  A
   thread has one list of these.  While ours is in its place, no robust mutex of a library may be
   locked in the thread; none is, for only our code runs there.  On other systems the word becomes 0
   only when the server ends in order. */
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

/* Called by the thread whose life it is.  `line` must stay where it is until the cut. */
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

/* Called by the same thread: the server ends in order. */
static inline void fm_lifeline_cut(fm_lifeline *line, uint32_t *word) {
    __atomic_store_n(word, 0U, __ATOMIC_SEQ_CST);
#ifdef __linux__
    if (line->before != NULL)
        (void)syscall(SYS_set_robust_list, line->before, line->before_size);
#else
    (void)line;
#endif
}

/* Whether the server lives, and has not ended the session whose number it keeps in `entry`.  The
   kernel may set the two highest bits of `alive`: they are no part of a thread's id. */
static inline int fm_serves(const uint32_t *alive, const uint64_t *entry, uint64_t session) {
    return (__atomic_load_n(alive, __ATOMIC_ACQUIRE) & 0x3fffffff) && fm_load(entry) == session;
}

/* The word behind `alive` counts how often a row of counters has grown.  A client that finds
   another count than before asks the server which counters there are. */
static inline uint32_t fm_growths(const uint32_t *alive) {
    return __atomic_load_n(alive + 1, __ATOMIC_SEQ_CST);
}

static inline void fm_note_growth(uint32_t *alive) {
    (void)__atomic_fetch_add(alive + 1, 1U, __ATOMIC_SEQ_CST);
}

#endif
