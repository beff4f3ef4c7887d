# cython: auto_pickle=False
"""A holder of one object, as the server holds it."""

from fastmgr.kinds.words cimport (
    ASK, MINUS_NAN, SINGLES, TAG, is_asked, spelled, value_of, word_in, word_of,
)
from fastmgr.memory.atomics cimport fm_exchange, fm_load, fm_replace, fm_store, uint64_t
from fastmgr.memory.arena cimport KIND_VALUE, Cell, Celled


cdef class Value(Celled):
    """A holder of one object.

    Parameters
    ----------
    typecode : str
        Kept for the representation; any object may be stored.
    value : object
    lock : bool
        Accepted and ignored, as in the stdlib: every call is atomic.
    """

    # The cell's word holds None, a bool, a float or an int of 48 bits.  Of another object the word
    # says that the server has it, in `_other`.  To replace the word is to replace the value.

    cdef public object _typecode
    cdef public object _other
    cdef uint64_t asked         # how many words with the mark ASK there were: no two are the same
    cdef public object keeper   # the name under which a file keeps the value, or None

    def __cinit__(self, *args, **kwds):
        self.kind = KIND_VALUE
        self.cell = Cell(sizeof(uint64_t))
        fm_store(<uint64_t *>self.cell.at, SINGLES)

    def __init__(self, typecode, value, lock=True):
        self._typecode = typecode
        self.swap(value)

    cdef object swap(self, value):
        """Put a value in and return the value before."""
        cdef uint64_t before, after = self.prepare(value)
        old = self._other
        if is_asked(after):
            self._other = value     # first: a reader of the mark must find the object
        before = fm_exchange(word_in(self.cell), after)
        if not is_asked(after):
            self._other = None
        return old if is_asked(before) else value_of(before)

    cdef bint replace(self, uint64_t before, value) except -1:
        """Put a value in if the word still is `before`; return whether it was."""
        cdef uint64_t after = self.prepare(value)
        cdef bint done
        old = self._other       # kept until the return: its destructor may run any code
        if is_asked(after):
            self._other = value
        done = fm_replace(word_in(self.cell), &before, after)
        if not done:
            self._other = old
        elif not is_asked(after):
            self._other = None
        return done

    cdef uint64_t prepare(self, value) except? 0:
        """Return the word for a value; for an object that no word can hold, with a new mark."""
        cdef uint64_t word
        if word_of(value, &word):
            return word
        if self.keeper is not None and type(value) is float:
            return MINUS_NAN    # Python does not show a NaN's payload, so a file need not keep it
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
        return self.read(fm_load(word_in(self.cell)))

    def set(self, value):
        self.swap(value)

    def incr(self, amount=1):
        """Add to the value and return the sum."""
        cdef uint64_t before
        while True:
            before = fm_load(word_in(self.cell))
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
            before = fm_load(word_in(self.cell))
            if self.read(before) != expected:
                return False
            if self.replace(before, desired):
                return True

    def __repr__(self):
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    def __reduce__(self):
        return type(self), (self._typecode, self._value), getattr(self, "__dict__", None)

    def __setstate__(self, state):
        # In a pickle of the stdlib's Value everything is in its __dict__.
        for name, value in state.items():
            setattr(self, name, value)

    value = _value = property(get, set)
