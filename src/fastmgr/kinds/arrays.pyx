# cython: auto_pickle=False
"""Arrays of numbers, as the server holds them."""

from libc.string cimport memcpy

from fastmgr.kinds.words cimport (
    ITEM_SIZES, add_to_item, check_integers, index_in, item_overflow, items_at, plain_item,
    plain_key, whole,
)
from fastmgr.memory.arena cimport HEAVY, KIND_ARRAY, KIND_NONE, Arena, Cell, Celled

import array

cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view)

# The methods of `array.array` that work on an array whose length is fixed.
cdef frozenset LASTING = frozenset(("count", "index", "tobytes", "tolist"))


cdef class Array(Celled):
    """An array of one type, as `array.array`; `lock` is ignored, as in the stdlib.

    Until the first client maps the items they are in an `array.array`, whose length may change.
    From then on they are in the cell, and the length is fixed.
    """

    cdef readonly object typecode
    cdef object items           # array.array; None once the items are in the cell
    cdef Py_ssize_t writes      # how often somebody wrote to `items`
    cdef object mapped          # memoryview of the items in the cell
    cdef size_t itemsize

    def __init__(self, typecode, sequence, lock=True):
        self.items = array.array(typecode, sequence)
        self.typecode = self.items.typecode
        self.itemsize = self.items.itemsize
        self.kind = KIND_ARRAY if self.typecode in ITEM_SIZES else KIND_NONE

    cdef object about(self):
        return self.typecode

    cdef bint settle(self, Arena arena) except -1:
        cdef Cell cell
        cdef Py_ssize_t seen = -1
        if self.items is None:
            return True
        if len(self.items) == 0:
            return False
        cell = Cell(self.state_size())
        if not cell.settle(arena):
            return False
        if self.is_heavy(False):
            seen = self.copy_to(cell, self.items)
        # Another thread may have moved the items meanwhile, or changed their number.
        if self.items is not None and self.state_size() == cell.size:
            self.move_to(cell, True, seen)
        return self.items is None

    cdef bint is_heavy(self, bint at_rest) except -1:
        if self.items is None:
            return Celled.is_heavy(self, at_rest)
        return self.kind != KIND_NONE and self.state_size() >= HEAVY

    cdef Py_ssize_t copy_to(self, Cell cell, object items) except? -1:
        """Copy the items while other threads write; return how many writes the copy has seen."""
        cdef Py_ssize_t writes = self.writes
        cdef Py_buffer *buffer
        with memoryview(items) as view:     # keeps the length
            buffer = PyMemoryView_GET_BUFFER(view)
            if <size_t>buffer.len == cell.size:
                with nogil:
                    memcpy(cell.at, buffer.buf, cell.size)
                return writes
        return -1

    cdef size_t state_size(self) except? 0:
        if self.kind == KIND_NONE:
            raise TypeError(f"an array of type {self.typecode!r} cannot be kept in a file")
        return <size_t>len(self) * self.itemsize

    cdef bint fits(self, size_t size) except -1:
        return size % self.itemsize == 0

    cdef int lie_in(self, Cell cell, bint fresh) except -1:
        return self.move_to(cell, fresh, -1)

    cdef int move_to(self, Cell cell, bint fresh, Py_ssize_t seen) except -1:
        """Move the items to a cell whose copy has seen so many writes; -1: it has no copy."""
        mapped = items_at(cell.at, cell.size, self.typecode, cell)
        with memoryview(self.items) as items:
            if fresh:
                if <size_t>PyMemoryView_GET_BUFFER(items).len != cell.size:
                    raise BufferError("the array has changed its length meanwhile")
                if seen != self.writes:
                    memcpy(cell.at, PyMemoryView_GET_BUFFER(items).buf, cell.size)
            self.cell = cell
            self.mapped = mapped
            self.items = None
        return 0

    cdef object now(self):
        """Return the items as an `array.array`: a copy if they are in the cell."""
        if self.items is not None:
            return self.items
        return array.array(self.typecode, self.there().tobytes())

    cdef object there(self):
        """Return the items in the cell, unless the cell's file was cut."""
        self.cell.check()
        return self.mapped

    def __len__(self):
        return len(self.items if self.items is not None else self.mapped)

    def __getitem__(self, key):
        key = plain_key(key)
        items = self.items
        if items is not None:
            return items[key]
        if isinstance(key, slice):
            return array.array(self.typecode, self.there()[key].tobytes())
        return self.there()[self.place(key, "array")]

    def __setitem__(self, key, value):
        key = plain_key(key)
        if isinstance(key, slice):
            self.put_slice(key, value)
            return
        if type(key) is int:
            self.place(key, "array assignment")
            value = plain_item(self.typecode, value)
        items = self.items
        if items is not None:
            self.writes += 1
            items[key] = value
            return
        at = self.place(key, "array assignment")
        # An array, unlike a memoryview, says what is wrong with a value.
        self.there()[at] = array.array(self.typecode, (value,))[0]

    cdef int put_slice(self, key, value) except -1:
        if isinstance(value, Array):
            value = (<Array>value).now()
        items = self.items
        if items is not None:
            self.writes += 1
            items[key] = value
            return 0
        if not isinstance(value, array.array):
            raise TypeError(
                f"can only assign array (not \"{type(value).__name__}\") to array slice")
        part = self.there()[key]
        if value.typecode != self.typecode:
            raise TypeError("bad argument type for built-in operation")
        if len(value) != len(part):
            raise BufferError(
                f"{len(value)} items for {len(part)}: an array that clients have mapped "
                "cannot change its length"
            )
        part[:] = value
        return 0

    cdef Py_ssize_t place(self, key, what) except -1:
        cdef Py_ssize_t at
        if type(key) is not int:
            raise TypeError("array indices must be integers")
        at = index_in(None, len(self), key, True)
        if at < 0:
            raise IndexError(f"{what} index out of range")
        return at

    def incr(self, key, amount=1):
        """Add to an item in one step and return the sum."""
        cdef Py_ssize_t at
        check_integers(self.typecode)
        key, amount = plain_key(key), whole(amount)
        items = self.items
        if items is not None:
            total = items[key] + amount
            self.writes += 1
            try:
                items[key] = total
            except OverflowError:
                item_overflow(self.typecode, amount)
            return total
        at = self.place(key, "array")
        self.cell.check()
        return add_to_item(self.cell.at + <size_t>at * self.itemsize, self.typecode, amount)

    def __delitem__(self, key):
        key = plain_key(key)
        items = self.items
        if items is None:
            raise BufferError("an array that clients have mapped cannot change its length")
        self.writes += 1
        del items[key]

    def __iter__(self):
        return iter(self.now())

    def __eq__(self, other):
        return self.now() == ((<Array>other).now() if isinstance(other, Array) else other)

    __hash__ = None

    def __repr__(self):
        return repr(self.now())

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(self.now(), name)
        self.writes += 1
        if self.items is None and name not in LASTING:
            raise BufferError(f"{name}: an array that clients have mapped cannot change its length")
        return method

    def __reduce__(self):
        return array.array, (self.typecode, self.now().tobytes())
