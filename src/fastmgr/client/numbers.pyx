# cython: auto_pickle=False
"""Counters, values and arrays, on which a client works by itself; see `client.proxy`."""

cimport cython
from cpython.buffer cimport PyObject_GetBuffer

from fastmgr.client.proxy cimport CellCore
from fastmgr.client.reads cimport is_plain
from fastmgr.client.session cimport Kept, Session, kept_at
from fastmgr.kinds.words cimport (
    ITEM_SIZES, SINGLES, add_to_item, check_integers, counter_add, counter_exchange, counter_get,
    counter_replace, index_in, is_asked, items_at, plain_item, plain_key, value_of, whole, word_of,
    words_of,
)
from fastmgr.memory.atomics cimport fm_load, fm_replace, uint64_t
from fastmgr.memory.arena cimport (
    KIND_ARRAY, KIND_COUNTER, KIND_COUNTERS, KIND_VALUE, Cell, View,
)
from fastmgr.memory.segments cimport Segment

import array
import types

cdef enum:
    SHOWN_ITEMS = 6         # in the representation of a row


cdef str shortened(str text, length):
    """The representation of the first items of a row, which ends with two brackets."""
    cdef Py_ssize_t end = len(text) - 2
    return f"{text[:end]}, ...{text[end:]} of {length}"


cdef class CounterCore(CellCore):
    """The compiled part of `CounterProxy`."""

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        return kind == KIND_COUNTER

    cdef object spelled(self):
        return str(counter_get(<uint64_t *>self.cell))

    def incr(self, amount=1):
        """Add to the counter in one step and return the sum.

        Raises
        ------
        OverflowError
            The sum does not fit 64 bits; nothing has changed.
        """
        amount = whole(amount)
        if self.at_hand():
            return counter_add(<uint64_t *>self.cell, amount, False)
        return self._callmethod("incr", (amount,))

    def decr(self, amount=1):
        """Subtract from the counter in one step and return the difference."""
        amount = whole(amount)
        if self.at_hand():
            return counter_add(<uint64_t *>self.cell, amount, True)
        return self._callmethod("decr", (amount,))

    def get(self):
        """Return the value."""
        return counter_get(<uint64_t *>self.cell) if self.at_hand() else self._callmethod("get")

    def set(self, value):
        """Set the value."""
        value = whole(value)
        if self.at_hand():
            counter_exchange(<uint64_t *>self.cell, value)
        else:
            self._callmethod("set", (value,))

    def exchange(self, value):
        """Set the value in one step and return what it was."""
        value = whole(value)
        if self.at_hand():
            return counter_exchange(<uint64_t *>self.cell, value)
        return self._callmethod("exchange", (value,))

    def compare_exchange(self, expected, desired):
        """Set the value in one step if it is `expected`; return whether it was set."""
        expected, desired = whole(expected), whole(desired)
        if self.at_hand():
            return counter_replace(<uint64_t *>self.cell, expected, desired)
        return self._callmethod("compare_exchange", (expected, desired))

    @property
    def value(self):
        """The value; to count use `incr`, which is one step."""
        return self.get()

    @value.setter
    def value(self, value):
        self.set(value)


cdef class CountersCore(CellCore):
    """The compiled part of `CountersProxy`."""

    __class_getitem__ = classmethod(types.GenericAlias)

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        cdef Session session = self._session()
        cdef Segment segment
        cdef size_t words = size
        cdef list parts = []
        if kind != KIND_COUNTERS:
            return False
        names, places = about
        indices = None if names is None else {name: i for i, name in enumerate(names)}
        for number, offset, part_size in places:
            segment = session.segment(session.view, number)
            if segment is None:
                return False
            parts.append(Cell(part_size, segment, offset))
            words += <size_t>part_size
        if names is not None and len(names) != words_of(words):
            return False
        self.names, self.indices, self.parts = names, indices, parts
        self.length = words_of(words)
        self.located += 1
        return True

    cdef object spelled(self):
        cdef uint64_t words[SHOWN_ITEMS]
        cdef Py_ssize_t i, length = self.length
        cdef Py_ssize_t count = min(length, <Py_ssize_t>SHOWN_ITEMS)
        cdef tuple names = self.names
        if self.growths != self.view.growths():
            return None     # the row may have grown
        for i in range(count):
            words[i] = fm_load(self.word(i))
        values = [counter_get(&words[i]) for i in range(count)]
        text = f"Counters({values if names is None else dict(zip(names, values))})"
        return text if length == count else shortened(text, length)

    cdef bint whole_at_hand(self) except -1:
        """Whether all counters of the row are at hand, also those that were added meanwhile."""
        if not self.at_hand():
            return False
        if self.growths != self.view.growths():
            self.cell = NULL
            self.view = None        # `find` asks the server again
            return self.at_hand()
        return True

    @cython.final
    cdef uint64_t *at(self, key) except? NULL:
        """The word of a counter; NULL: ask the server, which also says that there is none."""
        cdef Py_ssize_t i, known
        if self.length == 0 and not self.at_hand():
            return NULL     # its names are not known
        known = self.located
        i = index_in(self.indices, self.length, key, False)
        if i < 0 and self.whole_at_hand():      # the key may be new, or negative
            known = self.located
            i = index_in(self.indices, self.length, key, True)
        if i >= 0 and self.at_hand() and known == self.located:
            return self.word(i)
        return NULL

    def incr(self, key, amount=1):
        """Add to one of the counters in one step and return the sum.

        Raises
        ------
        KeyError, IndexError
            There is no such counter.
        OverflowError
            The sum does not fit 64 bits; nothing has changed.
        """
        cdef uint64_t *word
        amount = whole(amount)
        word = self.at(key)
        if word is not NULL:
            return counter_add(word, amount, False)
        return self._callmethod("incr", (key, amount))

    def decr(self, key, amount=1):
        """Subtract from one of the counters in one step and return the difference."""
        cdef uint64_t *word
        amount = whole(amount)
        word = self.at(key)
        if word is not NULL:
            return counter_add(word, amount, True)
        return self._callmethod("decr", (key, amount))

    def exchange(self, key, value):
        """Set one of the counters in one step and return what it was."""
        cdef uint64_t *word
        value = whole(value)
        word = self.at(key)
        if word is not NULL:
            return counter_exchange(word, value)
        return self._callmethod("exchange", (key, value))

    def compare_exchange(self, key, expected, desired):
        """Set one of the counters in one step if it is `expected`; return whether it was set."""
        cdef uint64_t *word
        expected, desired = whole(expected), whole(desired)
        word = self.at(key)
        if word is not NULL:
            return counter_replace(word, expected, desired)
        return self._callmethod("compare_exchange", (key, expected, desired))

    def keys(self):
        """Return the names, or the indices, in a list."""
        if self.whole_at_hand():
            return list(range(self.length) if self.names is None else self.names)
        return self._callmethod("keys")

    def snapshot(self):
        """Return the values of all in a list; each is read in one step, one after the other."""
        cdef Py_ssize_t i
        cdef list values
        if self.whole_at_hand():
            values = [None] * self.length
            if self.at_hand() and len(values) == self.length:
                for i in range(self.length):
                    values[i] = counter_get(self.word(i))
                return values
        return self._callmethod("snapshot")

    def as_dict(self):
        """Return the values of all by name, or by index."""
        return dict(zip(self.keys(), self.snapshot()))

    def __getitem__(self, key):
        cdef uint64_t *word = self.at(key)
        return counter_get(word) if word is not NULL else self._callmethod("__getitem__", (key,))

    def __setitem__(self, key, value):
        cdef uint64_t *word
        value = whole(value)
        word = self.at(key)
        if word is not NULL:
            counter_exchange(word, value)
        else:
            self._callmethod("__setitem__", (key, value))

    def __contains__(self, key):
        return self._callmethod("__contains__", (key,))

    def __len__(self):
        return self.length if self.whole_at_hand() else self._callmethod("__len__")

    def __iter__(self):
        return iter(self.keys())

    def __reversed__(self):
        return reversed(self.keys())


cdef class ValueCore(CellCore):
    """The compiled part of `ValueProxy`."""

    __class_getitem__ = classmethod(types.GenericAlias)

    # An object that no word can hold and nobody can change, with the mark that stood for it.
    cdef Kept kept

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        self.kept = None
        return kind == KIND_VALUE

    cdef object spelled(self):
        cdef uint64_t word = fm_load(<uint64_t *>self.cell)
        return None if is_asked(word) else repr(value_of(word))

    def get(self):
        """Return the value."""
        cdef uint64_t word
        if not self.at_hand():
            return self._callmethod("get")
        word = fm_load(<uint64_t *>self.cell)
        if not is_asked(word):
            return value_of(word)
        kept = self.kept
        if kept is not None and (<Kept>kept).version == word:
            return (<Kept>kept).value
        view = self.view
        value = self._callmethod("get")
        # No two objects of a server have the same mark: this one it had before the call, and after.
        if (
            is_plain(value) and self.at_hand() and self.view is view
            and fm_load(<uint64_t *>self.cell) == word
        ):
            self.kept = kept_at(word, value, None)
        return value

    def _close(self):
        self.kept = None
        CellCore._close(self)

    cdef bint swap(self, value, uint64_t *before) except -1:
        """Replace what is there, if neither it nor `value` needs the server."""
        cdef uint64_t after
        if not word_of(value, &after) or not self.at_hand():
            return False
        before[0] = fm_load(<uint64_t *>self.cell)
        while not is_asked(before[0]):
            if fm_replace(<uint64_t *>self.cell, before, after):
                return True
        return False

    def set(self, value):
        """Set the value."""
        cdef uint64_t before
        if not self.swap(value, &before):
            self._callmethod("set", (value,))

    def exchange(self, value):
        """Set the value in one step and return what it was."""
        cdef uint64_t before
        if self.swap(value, &before):
            return value_of(before)
        return self._callmethod("exchange", (value,))

    def incr(self, amount=1):
        """Add to the value in one step and return the sum."""
        cdef uint64_t before, after
        if (type(amount) is int or type(amount) is float) and self.at_hand():
            before = fm_load(<uint64_t *>self.cell)
            while not is_asked(before) and before != SINGLES:   # None, with which nothing adds up
                total = value_of(before) + amount
                if not word_of(total, &after):
                    break
                if fm_replace(<uint64_t *>self.cell, &before, after):
                    return total
        return self._callmethod("incr", (amount,))

    def compare_exchange(self, expected, desired):
        """Set the value in one step if it equals `expected`; return whether it did."""
        cdef uint64_t before, after
        if word_of(expected, &before) and word_of(desired, &after) and self.at_hand():
            before = fm_load(<uint64_t *>self.cell)
            while not is_asked(before):
                if value_of(before) != expected:
                    return False
                if fm_replace(<uint64_t *>self.cell, &before, after):
                    return True
        return self._callmethod("compare_exchange", (expected, desired))

    value = property(get, set)


cdef class ArrayCore(CellCore):
    """The compiled part of `ArrayProxy`."""

    __class_getitem__ = classmethod(types.GenericAlias)

    cdef object typecode
    cdef size_t itemsize
    cdef object items           # memoryview of the cell
    cdef object items_of        # the View it is of

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        if kind != KIND_ARRAY or type(about) is not str or about not in ITEM_SIZES:
            return False
        self.typecode = about
        self.itemsize = ITEM_SIZES[about]
        return True

    cdef object spelled(self):
        cdef size_t length = self.size // self.itemsize
        cdef size_t count = min(length, <size_t>SHOWN_ITEMS)
        cdef bytes some = self.cell[:count * self.itemsize]
        text = repr(array.array(self.typecode, some))
        return text if length == count else shortened(text, length)

    cdef object mapped(self):
        """The items, or None.  They keep the memory mapped, and the array alive in the server."""
        cdef View view
        cdef Segment segment
        cdef char *at
        cdef size_t size
        if not self.at_hand():
            return None
        if self.items_of is not self.view:
            # A view of the items, numpy's for example, may outlive the proxy.  It keeps the
            # reference, so the server does not give the memory to another object.
            view, segment, ref, at, size = (
                self.view, self.segment, self._ref, self.cell, self.size)
            items = items_at(at, size, self.typecode, (segment, ref))
            if self.view is not view or not self.ready():
                return None
            self.items = items
            self.items_of = view
        return self.items

    def _close(self):
        self.items = self.items_of = None
        CellCore._close(self)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        items = self.mapped()
        if items is None:
            raise BufferError(
                "the array is not in memory that this process shares with the manager: read it "
                "with proxy[:]"
            )
        PyObject_GetBuffer(items, buffer, flags)

    def __len__(self):
        items = self.mapped()
        return self._callmethod("__len__") if items is None else len(items)

    def __bytes__(self):
        # By item, as in the stdlib, and not of the buffer, which may be there or not.
        return bytes(self[:].tolist())

    def __getitem__(self, key):
        if type(key) is not int:
            key = plain_key(key)
        items = self.mapped()
        if items is not None:
            try:
                if type(key) is int:
                    return items[key]
                if type(key) is slice:
                    return array.array(self.typecode, items[key].tobytes())
            except Exception:
                pass        # the server says what is wrong
        return self._callmethod("__getitem__", (key,))

    def __setitem__(self, key, value):
        if type(key) is not int:
            key = plain_key(key)
        items = self.mapped() if type(key) is int else None
        if items is not None:
            try:
                if type(value) is not int and type(value) is not float:
                    value = plain_item(self.typecode, value)
                    items = self.mapped()
                if items is not None:
                    items[key] = value
                    return
            except Exception:
                pass
        self._callmethod("__setitem__", (key, value))

    def incr(self, key, amount=1):
        """Add to an item of an array of integers in one step and return the sum.

        Raises
        ------
        OverflowError
            The sum does not fit the item; nothing has changed.
        TypeError
            The array is one of floats.
        """
        cdef Py_ssize_t at
        if type(key) is not int:
            key = plain_key(key)
        items = self.mapped() if type(key) is int else None
        if items is not None:
            check_integers(self.typecode)
            if type(amount) is not int:
                amount = whole(amount)
                items = self.mapped()
        if items is not None:
            at = index_in(None, <Py_ssize_t>(self.size // self.itemsize), key, True)
            if at >= 0:
                return add_to_item(self.cell + <size_t>at * self.itemsize, self.typecode, amount)
        return self._callmethod("incr", (key, amount))
