"""One message at a time between a client's thread and the server, in memory they share."""

from fastmgr.link.system cimport fm_event, fm_poller, fm_spinner, int64_t

cdef extern from "link/mailbox.h" nogil:
    enum: FM_MAIL, FM_MAIL_LOOKS, FM_MAIL_MOST, FM_MAIL_ROOM, FM_MAILBOX_SIZE

    ctypedef struct fm_mailbox:
        pass
    int fm_mail_is_there(const fm_mailbox *box)
    int fm_mail_post(fm_mailbox *box, const void *source, size_t size)
    ssize_t fm_mail_await(fm_mailbox *box, void *into, size_t room, fm_spinner *spinner, int spare)
    size_t fm_mail_take(fm_mailbox *box, void *into, size_t room)
    int fm_mail_answer(fm_mailbox *box, const void *source, size_t size)
    void fm_mail_open(fm_mailbox *box)
    int fm_mail_shut(fm_mailbox *box)

    ctypedef struct fm_mailroom:
        pass
    void fm_mailroom_open(fm_mailroom *room, fm_mailbox *box, int fd)
    int64_t fm_mailroom_lag(const fm_mailroom *room)
    void fm_mailroom_forget(fm_mailroom *room, int fd)
    int fm_mailroom_soon(
        fm_mailroom *room, fm_poller *poller, fm_event *events, fm_spinner *spinner, int spare)
    int fm_mailroom_sleep(fm_mailroom *room, fm_poller *poller, fm_event *events, int timeout_ms)
