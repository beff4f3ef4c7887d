# cython: auto_pickle=False
"""Counters, one by itself or many in a row, as the server holds them."""

from fastmgr.kinds.words cimport (
    counter_add, counter_exchange, counter_get, counter_replace, spelled, whole, word_in,
)
from fastmgr.memory.arena cimport Arena
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.memory.cells cimport KIND_COUNTER, KIND_COUNTERS, Cell, Celled

from collections.abc import Iterable, Mapping

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t PyNumber_AsSsize_t(object number, object error) except? -1

__all__ = ["Counter", "Counters"]


cdef class Counter(Celled):
    """An integer of 64 bits.

    Parameters
    ----------
    initial : int

    Raises
    ------
    OverflowError
        A number does not fit; the counter is left as it was.
    """

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
        return int, (self.get(),)       # a copy of it is a number


cdef class Counters(Celled):
    """Integers of 64 bits in a row, by name or by index.

    Parameters
    ----------
    names : iterable of str, mapping, or int
        What they are called, which of a mapping are the keys and its values theirs; or how many
        there are.
    values : iterable of int, optional
        Their values; zeros if there are none.
    """

    cdef readonly object names      # None: they have indices only
    cdef dict indices
    cdef Py_ssize_t length          # of all
    cdef Py_ssize_t own             # of those in its own cell; the others are in
    cdef list parts                 # [Counters], which were added later

    def __init__(self, names, values=None):
        cdef Py_ssize_t i
        self.kind = KIND_COUNTERS
        if values is None and isinstance(names, Mapping):
            names, values = tuple(names), tuple(names.values())
        if isinstance(names, Iterable):
            self.names = tuple(names)
            self.indices = {name: i for i, name in enumerate(self.names)}
            if len(self.indices) != len(self.names):
                raise ValueError("a name occurs twice among the counters")
            self.length = len(self.names)
        else:
            names = whole(names)
            if not 0 <= names <= PY_SSIZE_T_MAX // <Py_ssize_t>sizeof(uint64_t):
                raise ValueError(f"{spelled(names)} counters: so many there cannot be")
            self.length = names
        self.own = self.length
        self.parts = []
        self.cell = Cell(<size_t>self.length * sizeof(uint64_t))
        if values is not None:
            values = [whole(value) for value in values]
            if len(values) != self.length:
                raise ValueError(f"{len(values)} values for {self.length} counters")
            for i in range(self.length):
                counter_exchange(self.word(i), values[i])

    cdef uint64_t *word(self, Py_ssize_t i) except NULL:
        cdef Counters part = self
        cdef Py_ssize_t number = 0
        while i >= part.own:
            i -= part.own
            part = self.parts[number]
            number += 1
        return word_in(part.cell) + i

    cdef bint settle(self, Arena arena) except -1:
        cdef Counters part
        for part in self.parts:
            if not part.cell.settle(arena):
                return False
        return self.cell.settle(arena)

    cdef object about(self):
        """The names, and where the cells are of those that were added."""
        cdef Counters part
        cdef Py_ssize_t located = self.own
        places = []
        for part in self.parts:
            if part.cell.segment is None:
                break       # it has come this moment; the client will ask again
            located += part.own
            places.append((part.cell.segment.number, part.cell.offset, part.cell.size))
        return self.names if self.names is None else self.names[:located], tuple(places)

    cdef Py_ssize_t place(self, key) except -1:
        """Where a counter is; users' code runs, so before a word is looked for."""
        cdef Py_ssize_t i
        cdef dict indices = self.indices
        if indices is not None:
            return indices[key]
        i = PyNumber_AsSsize_t(key, IndexError)
        if not -self.length <= i < self.length:
            raise IndexError(f"there is no counter {i}: there are {self.length}")
        return i if i >= 0 else i + self.length

    def incr(self, key, amount=1):
        cdef Py_ssize_t i = self.place(key)
        amount = whole(amount)
        return counter_add(self.word(i), amount, False)

    def decr(self, key, amount=1):
        cdef Py_ssize_t i = self.place(key)
        amount = whole(amount)
        return counter_add(self.word(i), amount, True)

    def exchange(self, key, value):
        cdef Py_ssize_t i = self.place(key)
        value = whole(value)
        return counter_exchange(self.word(i), value)

    def compare_exchange(self, key, expected, desired):
        cdef Py_ssize_t i = self.place(key)
        expected, desired = whole(expected), whole(desired)
        return counter_replace(self.word(i), expected, desired)

    def keys(self):
        return list(range(self.length) if self.names is None else self.names)

    def snapshot(self):
        return [counter_get(self.word(i)) for i in range(self.length)]

    def as_dict(self):
        return dict(zip(self.keys(), self.snapshot()))

    def __getitem__(self, key):
        cdef Py_ssize_t i = self.place(key)
        return counter_get(self.word(i))

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
        return f"Counters({self.as_dict() if self.names is not None else self.snapshot()})"

    def __reduce__(self):
        if self.names is None:
            return list, (self.snapshot(),)
        return dict, (self.as_dict(),)


def grow(Counters row not None, *parts):
    """Add counters to a row, behind those it has.

    Raises
    ------
    ValueError
        One of the names is there already, or only some of the counters have names.
    """
    cdef Counters part
    cdef Py_ssize_t more = 0
    names = indices = None
    for part in parts:
        if (part.names is None) != (row.names is None):
            raise ValueError("only some of the counters have names")
        more += part.length
    if row.names is not None:
        names = row.names + tuple([name for part in parts for name in part.names])
        indices = {name: i for i, name in enumerate(names)}
        if len(indices) != len(names):
            raise ValueError("a name occurs twice among the counters")
    row.parts = [*row.parts, *parts]
    row.names, row.indices = names, indices
    row.length += more
