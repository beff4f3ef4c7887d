# cython: auto_pickle=False
"""Counters, one by itself or many in a row, as the server holds them."""

from fastmgr.kinds.words cimport (
    counter_add, counter_exchange, counter_get, counter_replace, index_in, part_with, spelled,
    whole, word_in, words_of,
)
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.memory.arena cimport KIND_COUNTER, KIND_COUNTERS, Arena, Cell, Celled

from collections.abc import Iterable, Mapping

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


cdef class Counter(Celled):
    """An integer of 64 bits.  What does not fit is an OverflowError and changes nothing."""

    def __init__(self, initial=0):
        self.kind = KIND_COUNTER
        self.cell = Cell(sizeof(uint64_t))
        self.set(initial)

    def incr(self, amount=1):
        amount = whole(amount)
        return counter_add(word_in(self.cell), amount, False)

    def decr(self, amount=1):
        amount = whole(amount)
        return counter_add(word_in(self.cell), amount, True)

    def get(self):
        return counter_get(word_in(self.cell))

    def set(self, value):
        value = whole(value)
        counter_exchange(word_in(self.cell), value)

    def exchange(self, value):
        value = whole(value)
        return counter_exchange(word_in(self.cell), value)

    def compare_exchange(self, expected, desired):
        expected, desired = whole(expected), whole(desired)
        return counter_replace(word_in(self.cell), expected, desired)

    def __int__(self):
        return self.get()

    def __repr__(self):
        return f"Counter({self.get()})"

    def __str__(self):
        return str(self.get())

    def __reduce__(self):
        return int, (self.get(),)       # a copy of a counter is a number


cdef class Counters(Celled):
    """Integers of 64 bits in a row.

    `names` has the counters' names, maps them to values, or is the number of counters.  Values are
    zero by default.
    """

    cdef readonly tuple names       # None: the counters have indices only
    cdef dict indices               # name -> index
    cdef Py_ssize_t length          # how many counters all cells have
    cdef list parts                 # cells of counters that were added later

    def __init__(self, names, values=None):
        cdef Py_ssize_t i
        self.kind = KIND_COUNTERS
        if values is None and isinstance(names, Mapping):
            names, values = tuple(names), tuple(names.values())
        if isinstance(names, Iterable):
            self.call(tuple(names))
            self.length = len(self.names)
        else:
            names = whole(names)
            if not 0 <= names <= PY_SSIZE_T_MAX // <Py_ssize_t>sizeof(uint64_t):
                raise ValueError(f"{spelled(names)} counters: so many there cannot be")
            self.length = names
        self.parts = []
        self.cell = Cell(<size_t>self.length * sizeof(uint64_t))
        if values is not None:
            values = [whole(value) for value in values]
            if len(values) != self.length:
                raise ValueError(f"{len(values)} values for {self.length} counters")
            for i in range(self.length):
                counter_exchange(self.word(i), values[i])

    cdef int call(self, tuple names) except -1:
        """Give all counters names, of which none may occur twice."""
        cdef dict indices = {name: i for i, name in enumerate(names)}
        if len(indices) != len(names):
            raise ValueError("a name occurs twice among the counters")
        self.names, self.indices = names, indices
        return 0

    cdef uint64_t *word(self, Py_ssize_t i) except NULL:
        cdef Cell cell = self.cell
        if i >= words_of(cell.size):
            i -= words_of(cell.size)
            cell = part_with(self.parts, &i)
        return word_in(cell) + i

    cdef uint64_t *at(self, key) except NULL:
        """Find the word of a counter.  Users' code may run in here, but not once it is found."""
        cdef Py_ssize_t i = index_in(self.indices, self.length, key, True)
        if i >= 0:
            return self.word(i)
        if self.indices is not None:
            raise KeyError(key)
        raise IndexError(f"there is no counter {whole(key)}: there are {self.length}")

    cdef bint settle(self, Arena arena) except -1:
        cdef Cell part
        for part in self.parts:
            if not part.settle(arena):
                return False
        return self.cell.settle(arena)

    cdef object about(self):
        """Return the names, and where the cells of added counters lie."""
        cdef Cell part
        cdef size_t located = self.cell.size
        places = []
        for part in self.parts:
            if part.segment is None:
                break       # this cell is not in a segment yet: the client asks again
            located += part.size
            places.append((part.segment.number, part.offset, part.size))
        names = self.names
        return None if names is None else names[:words_of(located)], tuple(places)

    def incr(self, key, amount=1):
        amount = whole(amount)
        return counter_add(self.at(key), amount, False)

    def decr(self, key, amount=1):
        amount = whole(amount)
        return counter_add(self.at(key), amount, True)

    def exchange(self, key, value):
        value = whole(value)
        return counter_exchange(self.at(key), value)

    def compare_exchange(self, key, expected, desired):
        expected, desired = whole(expected), whole(desired)
        return counter_replace(self.at(key), expected, desired)

    def keys(self):
        return list(range(self.length) if self.names is None else self.names)

    def snapshot(self):
        return [counter_get(self.word(i)) for i in range(self.length)]

    def as_dict(self):
        return dict(zip(self.keys(), self.snapshot()))

    def __getitem__(self, key):
        return counter_get(self.at(key))

    def __setitem__(self, key, value):
        self.exchange(key, value)

    def __contains__(self, key):
        if self.names is not None:
            return key in self.indices
        return isinstance(key, int) and -self.length <= key < self.length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.keys())

    def __reversed__(self):
        return reversed(self.keys())

    def __repr__(self):
        return f"Counters({self.snapshot() if self.names is None else self.as_dict()})"

    def __reduce__(self):
        if self.names is None:
            return list, (self.snapshot(),)
        return dict, (self.as_dict(),)


def grow(Counters row not None, *parts):
    """Add counters to a row, behind its own.  They stay in the cells that they have.

    It raises ValueError where a name occurs twice, or only some of the counters have names.
    """
    cdef Counters part
    cdef list cells = [*row.parts]
    names = row.names
    for part in parts:
        if (part.names is None) != (names is None):
            raise ValueError("only some of the counters have names")
        cells.append(part.cell)
    if names is not None:
        row.call(names + tuple([name for part in parts for name in part.names]))
    row.parts = cells
    row.length += sum([part.length for part in parts])
