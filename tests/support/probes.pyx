"""Parts that compiled modules alone can reach, for tests in Python."""

from fastmgr.link.mailbox cimport (
    FM_MAIL_MOST, FM_MAIL_ROOM, fm_mail_answer, fm_mail_await, fm_mail_post, fm_mail_take,
    fm_mailbox, fm_mailroom, fm_mailroom_forget, fm_mailroom_open, fm_mailroom_sleep,
)
from fastmgr.link.message cimport begin_message, seal, undo_message
from fastmgr.link.stream cimport Header
from fastmgr.link.system cimport (
    fm_event, fm_look, fm_look_again, fm_look_begin, fm_look_end, fm_poller, fm_poller_close,
    fm_poller_forget, fm_poller_open, fm_poller_set, fm_poller_wait, fm_spinner,
)
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer, is_scalar

from libc.string cimport memset


cdef class WriterProbe:
    """A `Writer` and the messages in it."""

    cdef Writer writer

    def __init__(self, out_of_band=False):
        self.writer = Writer.__new__(Writer)
        self.writer.out_of_band = out_of_band

    def put(self, value):
        return self.writer.put(value)

    def put_compact(self, value):
        return self.writer.put_compact(value)

    def put_args(self, tuple args):
        return self.writer.put_compact(args) and self.writer.put_args(args)

    def put_apart(self, tuple args):
        return self.writer.put_apart(args)

    def put_each_compact(self, list values):
        return self.writer.put_each_compact(values)

    def reset(self):
        self.writer.reset()

    def begin(self):
        return begin_message(self.writer)

    def undo(self, size_t start):
        undo_message(self.writer, start)

    def seal(self, size_t start, *, op, handle=0, call=0, method=0, flags=0):
        cdef Header header
        header.size = 0
        header.op, header.handle, header.call, header.method = op, handle, call, method
        header.flags = flags
        seal(self.writer, start, &header)

    @property
    def data(self):
        return self.writer.data[:self.writer.size] if self.writer.size else b""

    @property
    def left_out(self):
        """The buffers that were left out, and whether each has to arrive as a bytearray."""
        return list(zip(self.writer.buffers or (), self.writer.writable or (), strict=True))

    @property
    def pickles(self):
        return self.writer.pickles


def read(bytes data, list buffers=None, bint carry=False):
    """Return the one value in `data`; with `carry` its pickles stay unread."""
    cdef Reader reader = Reader.__new__(Reader)
    reader.feed(data, <size_t>len(data), buffers, not carry)
    reader.carry = carry
    value = reader.get()
    assert reader.done()
    return value


def scalar(value):
    return is_scalar(value)


cdef class Poller:
    cdef fm_poller poller

    def __cinit__(self, bint use_poll):
        fm_poller_open(&self.poller, use_poll)

    def __dealloc__(self):
        fm_poller_close(&self.poller)

    def set(self, int fd, int interest, bint is_new=True):
        return fm_poller_set(&self.poller, fd, interest, is_new)

    def forget(self, int fd):
        fm_poller_forget(&self.poller, fd)

    def wait(self, int room=64):
        """Return the events that are there now, by their descriptors."""
        cdef fm_event events[64]
        cdef int n = fm_poller_wait(&self.poller, events, room, 0)
        assert 0 <= n <= room
        return {events[i].fd: events[i].ready for i in range(n)}


cdef class Mailboxes:
    """Mailboxes, one more than a loop looks into, by their numbers; and the loop's list of them."""

    cdef fm_mailbox boxes[FM_MAIL_MOST + 1]
    cdef fm_mailroom room
    cdef fm_poller poller

    def __cinit__(self):
        fm_poller_open(&self.poller, True)

    def __dealloc__(self):
        fm_poller_close(&self.poller)

    def open(self, int i):
        fm_mailroom_open(&self.room, &self.boxes[i], i)

    def forget(self, int i):
        fm_mailroom_forget(&self.room, i)

    def sleep(self):
        """Return the numbers of those with a request that the loop finds before it sleeps."""
        cdef fm_event events[FM_MAIL_MOST]
        cdef int n = fm_mailroom_sleep(&self.room, &self.poller, events, 0)
        return [events[i].fd for i in range(n)]

    def post(self, int i, bytes request):
        return bool(fm_mail_post(&self.boxes[i], <const char *>request, <size_t>len(request)))

    def take(self, int i):
        cdef char into[FM_MAIL_ROOM]
        return into[:fm_mail_take(&self.boxes[i], into, FM_MAIL_ROOM)]

    def answer(self, int i, bytes reply):
        return bool(fm_mail_answer(&self.boxes[i], <const char *>reply, <size_t>len(reply)))

    def wait(self, int i):
        """Return the reply; None where the client went to sleep."""
        cdef char into[FM_MAIL_ROOM]
        cdef fm_spinner spinner
        memset(&spinner, 0, sizeof(spinner))
        cdef ssize_t n = fm_mail_await(&self.boxes[i], into, FM_MAIL_ROOM, &spinner, True)
        return into[:n] if n >= 0 else None

    most = FM_MAIL_MOST
    most_bytes = FM_MAIL_ROOM


def waits_that_look(str outcomes, bint spare):
    """Wait once for each letter, in vain where that is ``.``; return which waits looked at all."""
    cdef fm_spinner spinner
    cdef fm_look look
    cdef list looked = []
    memset(&spinner, 0, sizeof(spinner))
    for number, outcome in enumerate(outcomes):
        if fm_look_begin(&look, &spinner, spare):
            looked.append(number)
            fm_look_again(&look)
            fm_look_end(&look, outcome != ".")
    return looked
