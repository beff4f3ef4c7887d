# cython: auto_pickle=False
"""Floats in the words of a row of counters, to which a client on the host adds by itself.

To the server, and to all others, these words are counters: integers of 64 bits.  What their bits
mean is between those who use the row so.
"""

from fastmgr.client.numbers cimport CountersCore
from fastmgr.memory.arena cimport View
from fastmgr.memory.atomics cimport (
    THREAD_BITS, fm_bits_of, fm_double_of, fm_exchange, fm_load, fm_replace, uint64_t,
)


cdef inline void add_double(uint64_t *word, double amount) noexcept nogil:
    """Add to a float, whose bits the word has, in one step."""
    cdef uint64_t before = fm_load(word)
    while not fm_replace(word, &before, fm_bits_of(fm_double_of(before) + amount)):
        pass


cdef class FloatWord:
    """A float in one word of a row, once `lie_in` has said in which.

    A subclass defines ``add_later(step)``, which is called for what is added while the word is
    not at hand: before `lie_in`, in the child of a fork, after the end of the server.

    A thread that has made one-way calls does not ask the server here, as the proxy would: nobody
    relies on the order of these sums and its other calls.

    Attributes
    ----------
    mine : float
        The sum of what was added by this object.
    """

    cdef CountersCore row
    cdef View view              # what `word` is mapped in, as long as it is that of the row
    cdef uint64_t *word
    cdef public double mine

    cdef inline bint at_hand(self) noexcept:
        return self.row is not None and self.row.view is self.view and self.row.ready()

    def lie_in(self, CountersCore row not None, Py_ssize_t index):
        """Have the float at that index of a row; return whether it is at hand now."""
        if row.ready() and index >= row.length:
            row.whole_at_hand()         # it may have grown
        if not row.ready() or not 0 <= index < row.length:
            return False
        self.row, self.view, self.word = row, row.view, row.word(index)
        return True

    def is_at_hand(self):
        """Whether this process may work on the word now."""
        return self.at_hand()

    def inc(self, amount):
        """Add to the float, in one step where it is at hand."""
        cdef double step = amount
        if self.at_hand():
            add_double(self.word, step)
            self.mine += step
        else:
            self.add_later(step)

    def add_later(self, step):
        """Note what is added while the word is not at hand."""
        raise NotImplementedError

    def add(self, double step):
        """Add to the float, and not to `mine`; return whether it is at hand."""
        if not self.at_hand():
            return False
        add_double(self.word, step)
        return True

    def load(self):
        """Return the float, or None where it is not at hand."""
        return fm_double_of(fm_load(self.word)) if self.at_hand() else None

    def store(self, double value):
        """Replace the float, and `mine`; return whether it is at hand, else nothing changes."""
        if not self.at_hand():
            return False
        self.mine = value
        fm_exchange(self.word, fm_bits_of(value))
        return True

    def store_mine(self):
        """Replace the float by `mine`; return whether it is at hand."""
        return self.store(self.mine)

    def replace_mine(self, double value):
        """Replace by another what this object has added; return whether the float is at hand."""
        cdef uint64_t before
        if not self.at_hand():
            return False
        before = fm_load(self.word)
        # In this order a float to which nobody else has added is `value` itself.
        while not fm_replace(
            self.word, &before, fm_bits_of(fm_double_of(before) - self.mine + value)
        ):
            pass
        self.mine = value
        return True


def is_mapped(CountersCore row not None):
    """Whether this process works on the row's words by itself, and the server lives."""
    return row.ready()


def party_of(CountersCore row not None):
    """Return which server the row's proxy speaks to, and the number of this process's session.

    None where nothing is known of that: before the first call, or of a server of the stdlib.
    """
    cdef View view = row._session().view
    return None if view is None else (view.instance, view.owner >> THREAD_BITS)


def live_sessions(CountersCore row not None):
    """Return the numbers of all sessions that the server has; None where that is not mapped."""
    cdef View view = row.view
    cdef const uint64_t *words
    cdef size_t i
    if not row.ready():
        return None
    words = <const uint64_t *>view.control.at
    found = set()
    for i in range(1, view.control.size // sizeof(uint64_t)):
        if fm_load(words + i):
            found.add(fm_load(words + i))
    return found
