"""Leaf calls into POSIX: no Python, no GIL needed, a count or ``-errno`` back."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "link/system.h" nogil:
    int MSG_DONTWAIT, MSG_PEEK, FM_SIGNALS_MS
    short POLLIN, POLLOUT

    int os_close "close" (int fd)
    void fm_shut_reading(int fd)
    void fm_shutdown(int fd)
    ssize_t fm_recv(int fd, void *into, size_t room, int flags)
    ssize_t fm_send(int fd, const void *source, size_t size, int flags)
    ssize_t fm_send_two(
        int fd, const void *first, size_t first_size, const void *second, size_t second_size,
        int flags)
    int fm_is_unix(int fd)
    ssize_t fm_send_fd(int fd, const void *source, size_t size, int passed, int flags)
    ssize_t fm_recv_fd(int fd, void *into, size_t room, int *passed)
    int fm_refused(int error)
    size_t fm_unread(int fd)
    int fm_hung_up(int fd)
    void fm_reset_at_close(int fd)
    void fm_await_end(int fd, int timeout_ms)
    void fm_acknowledge(int fd)
    int fm_poll_one(int fd, short events, int timeout_ms)
    int fm_receive_timeout(int fd, long milliseconds)

    ctypedef struct fm_spinner:
        pass

    ctypedef struct fm_look:
        int looks
    int fm_look_begin(fm_look *look, fm_spinner *spinner, int spare)
    int fm_look_again(fm_look *look)
    void fm_look_end(fm_look *look, int hit)

    int64_t fm_now_ns()
    void fm_share_heap()

    int FM_READ, FM_WRITE, FM_HANGUP
    ctypedef struct fm_event:
        int fd
        int ready
    ctypedef struct fm_poller:
        pass
    void fm_poller_open(fm_poller *poller, int use_poll)
    void fm_poller_close(fm_poller *poller)
    int fm_poller_set(fm_poller *poller, int fd, int interest, int is_new)
    void fm_poller_forget(fm_poller *poller, int fd)
    int fm_poller_wait(fm_poller *poller, fm_event *events, int room, int timeout_ms)
