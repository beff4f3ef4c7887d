# cython: auto_pickle=False
"""A holder of one object, as the server holds it."""

from fastmgr.kinds.words cimport (
    ASK, MINUS_NAN, SINGLES, TAG, is_asked, spelled, value_of, word_in, word_of,
)
from fastmgr.memory.atomics cimport fm_exchange, fm_load, fm_replace, fm_store, uint64_t
from fastmgr.memory.cells cimport KIND_VALUE, Cell, Celled

__all__ = ["Value"]


cdef class Value(Celled):
    """A holder of one object.

    Parameters
    ----------
    typecode : str
        Kept for the representation; any object may be stored.
    value : object
    lock : bool
        Accepted and ignored, as in the stdlib: every call is atomic.

    Notes
    -----
    None, bools, floats and ints of 48 bits are in the cell.  For anything else the cell says
    "ask the server", and `_other` is the object.  One word decides, so an atomic step that replaces
    the word replaces the value.
    """

    cdef public object _typecode
    cdef public object _other
    cdef uint64_t asked         # marks so far: none is used twice
    cdef public object keeper   # the name under which it is kept in a file, or None

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_VALUE
        self.cell = Cell(sizeof(uint64_t))
        fm_store(<uint64_t *>self.cell.at, SINGLES)

    def __init__(self, typecode, value, lock=True):
        self._typecode = typecode
        self.swap(value)

    cdef uint64_t *word(self) except NULL:
        return word_in(self.cell)

    cdef object swap(self, value):
        """Put a value in, whatever is there, and return what was."""
        cdef uint64_t before, after = self.prepare(value)
        old = self._other
        if is_asked(after):
            self._other = value     # before the word: a reader must not find the mark without it
        before = fm_exchange(self.word(), after)
        if not is_asked(after):
            self._other = None
        return old if is_asked(before) else value_of(before)

    cdef bint replace(self, uint64_t before, value) except -1:
        """Put a value in if the word still is `before`: whether it was."""
        cdef uint64_t after = self.prepare(value)
        cdef bint done
        old = self._other       # lives until the return: its destructor may run any code
        if is_asked(after):
            self._other = value
        done = fm_replace(self.word(), &before, after)
        if not done:
            self._other = old
        elif not is_asked(after):
            self._other = None
        return done

    cdef uint64_t prepare(self, value) except? 0:
        """The word for a value: a fresh mark where it has none."""
        cdef uint64_t word
        if word_of(value, &word):
            return word
        if self.keeper is not None and type(value) is float:
            return MINUS_NAN    # without its payload, which Python does not show
        if self.keeper is not None:
            shown = spelled(value) if isinstance(value, int) else repr(value)
            raise TypeError(
                f"the value {self.keeper!r} is kept in a file, which holds None, bool, float and "
                f"int of 48 bits; {shown} is none of them"
            )
        self.asked += 1
        return ASK | (self.asked & ~TAG)

    cdef object read(self, uint64_t word):
        return self._other if is_asked(word) else value_of(word)

    def get(self):
        return self.read(fm_load(self.word()))

    def set(self, value):
        self.swap(value)

    def incr(self, amount=1):
        """Add to the value and return the sum."""
        cdef uint64_t before
        while True:
            before = fm_load(self.word())
            total = self.read(before) + amount
            if self.replace(before, total):
                return total

    def exchange(self, value):
        """Replace the value and return what it was."""
        return self.swap(value)

    def compare_exchange(self, expected, desired):
        """Replace the value if it equals `expected`; return whether it did."""
        cdef uint64_t before
        while True:
            before = fm_load(self.word())
            if self.read(before) != expected:
                return False
            if self.replace(before, desired):
                return True

    def __repr__(self):
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    def __reduce__(self):
        return type(self), (self._typecode, self._value), getattr(self, "__dict__", None)

    def __setstate__(self, state):
        # The stdlib's has all of it in its __dict__.
        for name, value in state.items():
            setattr(self, name, value)

    value = _value = property(get, set)
