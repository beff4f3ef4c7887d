"""One message at a time between a client's thread and the server, in memory they share."""

from libc.errno cimport EAGAIN

from fastmgr.link.system cimport (
    fm_event, fm_look, fm_look_again, fm_look_begin, fm_look_end, fm_poller, fm_spinner, uint64_t,
)
from fastmgr.link.transport cimport Transport

cdef extern from "link/mailbox.h" nogil:
    enum: FM_MAIL
    enum: FM_MAILBOX_SIZE
    enum: FM_MAIL_ROOM
    enum: FM_MAIL_MOST
    enum: FM_MAIL_LOOKS

    ctypedef struct fm_mailbox:
        pass

    int fm_mail_is_there(const fm_mailbox *box)

    int fm_mail_post(fm_mailbox *box, const void *source, size_t size)
    ssize_t fm_mail_await(
        fm_mailbox *box, void *into, size_t room, fm_spinner *spinner, int spare
    )

    size_t fm_mail_take(fm_mailbox *box, void *into, size_t room)
    int fm_mail_answer(fm_mailbox *box, const void *source, size_t size)
    void fm_mail_open(fm_mailbox *box)
    int fm_mail_shut(fm_mailbox *box)

    ctypedef struct fm_mailroom:
        pass

    void fm_mailroom_open(fm_mailroom *room, fm_mailbox *box, int fd)
    void fm_mailroom_forget(fm_mailroom *room, int fd)
    int fm_mailroom_soon(
        fm_mailroom *room, fm_poller *poller, fm_event *events, fm_spinner *spinner, int spare
    )
    int fm_mailroom_sleep(
        fm_mailroom *room, fm_poller *poller, fm_event *events, int timeout_ms
    )


cdef inline ssize_t request_soon(
    fm_mailbox *box, Transport transport, void *into, size_t room, fm_spinner *spinner, bint spare,
    bint *by_mail
) noexcept nogil:
    """Receive a request by mail or what comes over the transport, else -EAGAIN.

    Then it is time to sleep, and the mailbox is shut.
    """
    cdef fm_look look
    cdef ssize_t n = -EAGAIN
    cdef bint there = False
    if fm_look_begin(&look, spinner, spare):
        fm_mail_open(box)
        while True:
            there = fm_mail_is_there(box)
            if not there and look.looks % FM_MAIL_LOOKS == 0:
                n = transport.read(into, room, False)
            if there or n != -EAGAIN or not fm_look_again(&look):
                break
        fm_look_end(&look, there or n != -EAGAIN)
    if not there and (n != -EAGAIN or not fm_mail_shut(box)):
        return n
    by_mail[0] = True
    return <ssize_t>fm_mail_take(box, into, room)
