# cython: auto_pickle=False
"""Shared numbers: counters, values and arrays, as the server holds them.

The state of each is in a cell, which clients on the host map and work on by the same
steps; they are here for both.  What a call through the server does and what a client does
by itself are therefore one after the other, in one order for all.
"""

cimport cython
from libc.string cimport memcpy

from fastmgr.memory.arena cimport (
    HEAVY, Arena, KIND_ARRAY, KIND_COUNTER, KIND_COUNTERS, KIND_NONE, KIND_VALUE, fm_add_i8,
    fm_add_i16, fm_add_i32, fm_add_i64, fm_add_u8, fm_add_u16, fm_add_u32, fm_add_u64,
    fm_bits_of, fm_double_of, fm_exchange, fm_load, fm_replace, fm_store, int8_t, int16_t,
    int32_t, uint8_t, uint16_t, uint32_t,
)

import array
from collections.abc import Iterable, Mapping

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t PyNumber_AsSsize_t(object number, object error) except? -1
    bint PyIndex_Check(object number)
    Py_buffer *PyMemoryView_GET_BUFFER(object view)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    object PyLong_FromLongLong(long long value)

__all__ = ["Array", "Counter", "Counters", "Value"]

# A word that is no number of a float's and marks something else: the top sixteen bits.
cdef uint64_t INTS = <uint64_t>0xfffa << 48      # 48 bits of an int follow
cdef uint64_t SINGLES = <uint64_t>0xfffb << 48   # None, False, True
cdef uint64_t ASK = <uint64_t>0xfffc << 48       # an object that the server has; a running number
cdef uint64_t TAG = <uint64_t>0xffff << 48
cdef uint64_t MINUS_NAN = <uint64_t>0xfff8 << 48
cdef int64_t INT_LIMIT = <int64_t>1 << 47

cdef object NOTHING = object()
cdef int64_t INT64_MIN = -<int64_t>0x7fffffffffffffff - 1


# -- counters -----------------------------------------------------------------

cdef bint as_int64(object number, int64_t *value) except -1:
    cdef int overflow = 0
    value[0] = PyLong_AsLongLongAndOverflow(number, &overflow)
    return overflow == 0


cdef object spelled(object number):
    """An int for a message; one that is too long to read, and for `int` to spell, by its size."""
    bits = number.bit_length()
    return f"{number}" if bits <= 256 else f"an int of {bits} bits"


cdef object too_large(object number):
    raise OverflowError(f"{spelled(number)} does not fit the 64 bits of a counter")


cdef object counter_add(uint64_t *word, object amount, bint negative):
    cdef int64_t step, total
    cdef uint64_t found
    if as_int64(amount, &step) and not (negative and step == INT64_MIN):
        if negative:
            step = -step
        if fm_add_i64(<int64_t *>word, step, &total):
            return PyLong_FromLongLong(total)
    else:
        result = add_much(word, -amount if negative else amount, True)
        if result is not None:
            return result
    found = fm_load(word)
    raise OverflowError(
        f"{<int64_t>found} {'-' if negative else '+'} {spelled(amount)} does not fit the 64 bits "
        "of a counter; it is left as it was"
    )


cdef object add_much(uint64_t *word, amount, bint is_signed):
    """Add what does not fit 64 bits by itself; None where the sum does not fit either."""
    cdef uint64_t before = fm_load(word)
    cdef object total, low = -2**63 if is_signed else 0, above = 2**63 if is_signed else 2**64
    while True:
        total = PyLong_FromLongLong(<int64_t>before) if is_signed else before
        total = total + amount
        if not low <= total < above:
            return None
        if fm_replace(word, &before, <uint64_t>(total & 0xffffffffffffffff)):
            return total


cdef object counter_get(const uint64_t *word):
    return PyLong_FromLongLong(<int64_t>fm_load(word))


cdef object counter_exchange(uint64_t *word, object value):
    cdef int64_t number
    if not as_int64(value, &number):
        too_large(value)
    return PyLong_FromLongLong(<int64_t>fm_exchange(word, <uint64_t>number))


cdef object counter_replace(uint64_t *word, object expected, object desired):
    cdef int64_t old, new
    cdef uint64_t found
    if not as_int64(desired, &new):
        too_large(desired)
    if not as_int64(expected, &old):
        return False        # no counter has it
    found = <uint64_t>old
    return bool(fm_replace(word, &found, <uint64_t>new))


cdef uint64_t *word_in(Cell cell) except NULL:
    """Where the server finds a word."""
    cell.check()
    return <uint64_t *>cell.at


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


# -- values ---------------------------------------------------------------------

cdef bint word_of(object value, uint64_t *word) except -1:
    cdef int overflow
    cdef int64_t number
    kind = type(value)
    if kind is int:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow or not -INT_LIMIT <= number < INT_LIMIT:
            return False
        word[0] = INTS | (<uint64_t>number & ~TAG)
    elif kind is float:
        word[0] = fm_bits_of(value)
        if value != value and word[0] >= INTS:
            return False        # its payload would meet the marks
    elif value is None:
        word[0] = SINGLES
    elif kind is bool:
        word[0] = SINGLES | (2 if value else 1)
    else:
        return False
    return True


cdef bint is_asked(uint64_t word) noexcept:
    # What nobody ever wrote but whoever scribbles is asked for, too.
    return word & TAG == ASK or (word & TAG > ASK) or (
        word & TAG == SINGLES and word & ~TAG > 2)


cdef object value_of(uint64_t word):
    cdef uint64_t tag = word & TAG
    if tag == INTS:
        return PyLong_FromLongLong(<int64_t>(word << 16) >> 16)
    if tag == SINGLES:
        return None if word & ~TAG == 0 else word & ~TAG == 2
    return fm_double_of(word)


cdef object add_to_word(uint64_t *word, object amount):
    """Add to a Value's word; `NOTHING` where that needs the server."""
    cdef uint64_t before = fm_load(word), after
    while not is_asked(before):
        total = value_of(before) + amount
        if not word_of(total, &after):
            break
        if fm_replace(word, &before, after):
            return total
    return NOTHING


def needs_server(result):
    """Whether it is what `add_to_word` returns for that."""
    return result is NOTHING


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
    "ask the server", and `_other` is the object.  One word decides, so that whoever replaces
    it by an atomic step has replaced everything.
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
        self._swap(value)

    cdef uint64_t *word(self) except NULL:
        return word_in(self.cell)

    cdef object _swap(self, value):
        """Put a value in, whatever is there, and return what was."""
        cdef uint64_t before
        cdef uint64_t after = self.prepare(value)
        old = self._other
        if after & TAG == ASK:
            self._other = value
            before = fm_exchange(self.word(), after)
        else:
            before = fm_exchange(self.word(), after)
            self._other = None
        return old if is_asked(before) else value_of(before)

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

    cdef object settle_for(self, uint64_t before, value):
        """Put a value in if the word still is `before`: whether it was."""
        cdef uint64_t after = self.prepare(value)
        old = self._other       # dropped when all is done: its destructor may do anything
        if after & TAG != ASK:
            if not fm_replace(self.word(), &before, after):
                return False
            self._other = None
            return True
        # The object first: nobody is to find the mark without it.
        self._other = value
        if fm_replace(self.word(), &before, after):
            return True
        self._other = old
        return False

    cdef object read(self, uint64_t word):
        return self._other if is_asked(word) else value_of(word)

    @property
    def _value(self):
        return self.read(fm_load(self.word()))

    @_value.setter
    def _value(self, value):
        self._swap(value)

    def get(self):
        return self.read(fm_load(self.word()))

    def set(self, value):
        self._swap(value)

    def incr(self, amount=1):
        """Add to the value and return the sum."""
        cdef uint64_t before
        while True:
            before = fm_load(self.word())
            total = self.read(before) + amount
            if self.settle_for(before, total):
                return total

    def exchange(self, value):
        """Replace the value and return what it was."""
        return self._swap(value)

    def compare_exchange(self, expected, desired):
        """Replace the value if it equals `expected`; return whether it did."""
        cdef uint64_t before
        while True:
            before = fm_load(self.word())
            if self.read(before) != expected:
                return False
            if self.settle_for(before, desired):
                return True

    def __repr__(self):
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    def __reduce__(self):
        return type(self), (self._typecode, self._value), getattr(self, "__dict__", None)

    def __setstate__(self, state):
        # The stdlib's has all of it in its __dict__.
        for name, value in state.items():
            setattr(self, name, value)

    value = property(get, set)


# -- arrays ----------------------------------------------------------------------

cdef dict ITEM_SIZES = {code: array.array(code).itemsize for code in "bBhHiIlLqQfd"}


cdef bint is_plain_code(object typecode) noexcept:
    return typecode in ITEM_SIZES


cdef object plain_part(object part):
    return PyNumber_Index(part) if type(part) is not int and PyIndex_Check(part) else part


cdef object plain_key(object key):
    """A key with ints where something stands for an int: that runs users' code."""
    if type(key) is slice:
        return slice(plain_part(key.start), plain_part(key.stop), plain_part(key.step))
    return plain_part(key)


cdef object plain_item(object typecode, object value):
    """The number that an array makes of a value, which may run users' code, or its error."""
    if type(value) is int or type(value) is float or typecode not in ITEM_SIZES:
        return value
    one = array.array(typecode, (0,))
    one[0] = value
    return one[0]


cdef object item_overflow(object typecode, object amount):
    raise OverflowError(
        f"the sum with {spelled(amount)} does not fit an item of type {typecode!r}; it is left as "
        "it was"
    )


cdef int check_integers(object typecode) except -1:
    if typecode not in ITEM_SIZES or typecode in "fd":
        raise TypeError(f"incr needs an array of integers; this one has the type {typecode!r}")
    return 0


cdef object add_to_item(char *at, object typecode, object amount):
    """Add to an item of an array of integers and return the sum.

    Raises
    ------
    OverflowError
        The sum does not fit; nothing has changed.
    """
    cdef int64_t step
    cdef int8_t i8
    cdef uint8_t u8
    cdef int16_t i16
    cdef uint16_t u16
    cdef int32_t i32
    cdef uint32_t u32
    cdef int64_t i64
    cdef uint64_t u64
    cdef size_t size
    size = ITEM_SIZES[typecode]
    if not as_int64(amount, &step):
        result = add_much(<uint64_t *>at, amount, typecode.islower()) if size == 8 else None
        if result is not None:
            return result
        item_overflow(typecode, amount)
    if typecode.islower():
        if size == 1 and fm_add_i8(<int8_t *>at, step, &i8):
            return i8
        if size == 2 and fm_add_i16(<int16_t *>at, step, &i16):
            return i16
        if size == 4 and fm_add_i32(<int32_t *>at, step, &i32):
            return i32
        if size == 8 and fm_add_i64(<int64_t *>at, step, &i64):
            return i64
    else:
        if size == 1 and fm_add_u8(<uint8_t *>at, step, &u8):
            return u8
        if size == 2 and fm_add_u16(<uint16_t *>at, step, &u16):
            return u16
        if size == 4 and fm_add_u32(<uint32_t *>at, step, &u32):
            return u32
        if size == 8 and fm_add_u64(<uint64_t *>at, step, &u64):
            return u64
    item_overflow(typecode, amount)


@cython.final
cdef class Window:
    """The items of an array in a cell, as a buffer."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        buffer.buf = self.at
        buffer.obj = self
        buffer.len = self.shape[0] * self.strides[0]
        buffer.itemsize = self.strides[0]
        buffer.readonly = 0
        buffer.ndim = 1
        buffer.format = self.format
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef Window window_on(char *at, size_t size, object typecode, object owners):
    cdef Window window = Window()
    window.at = at
    window.strides[0] = ITEM_SIZES[typecode]
    window.shape[0] = <Py_ssize_t>size // window.strides[0]
    window.format = typecode.encode()
    window.owners = owners
    return window


# What can still be asked of an array when its length is fixed.
cdef frozenset LASTING = frozenset((
    "count", "index", "tobytes", "tolist",
))


cdef class Array(Celled):
    """An array of one type, as `array.array`.

    Parameters
    ----------
    typecode : str
    sequence : iterable
    lock : bool
        Accepted and ignored, as in the stdlib: every call is atomic.

    Notes
    -----
    As long as no client has mapped it this is an `array.array`, which slices may lengthen or
    shorten.  Once one has, its length stays.
    """

    cdef readonly object typecode
    cdef object items           # array.array; None once the items are in the cell
    cdef Py_ssize_t writes      # to `items` so far
    cdef object mapped          # memoryview of them there

    def __init__(self, typecode, sequence, lock=True):
        self.items = array.array(typecode, sequence)
        self.typecode = self.items.typecode
        self.kind = KIND_ARRAY if is_plain_code(self.typecode) else KIND_NONE

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
        # Another thread may have been here meanwhile.
        if self.items is not None and self.state_size() == cell.size:
            self.move_to(cell, True, seen)
        return self.items is None

    cdef bint is_heavy(self, bint at_rest) except -1:
        if self.items is None:
            return Celled.is_heavy(self, at_rest)
        return self.kind != KIND_NONE and self.state_size() >= HEAVY

    cdef Py_ssize_t copy_to(self, Cell cell, object items) except? -1:
        """Copy the items while others go on; how many writes it has seen, -1 without a copy."""
        cdef Py_ssize_t writes = self.writes
        cdef Py_buffer *buffer
        with memoryview(items) as view:     # the length stays
            buffer = PyMemoryView_GET_BUFFER(view)
            if <size_t>buffer.len == cell.size:
                with nogil:
                    memcpy(cell.at, buffer.buf, cell.size)
                return writes
        return -1

    cdef size_t state_size(self) except? 0:
        if self.kind == KIND_NONE:
            raise TypeError(f"an array of type {self.typecode!r} cannot be kept in a file")
        return <size_t>len(self) * <size_t>ITEM_SIZES[self.typecode]

    cdef bint fits(self, size_t size) except -1:
        return size % <size_t>ITEM_SIZES[self.typecode] == 0

    cdef int lie_in(self, Cell cell, bint fresh) except -1:
        return self.move_to(cell, fresh, -1)

    cdef int move_to(self, Cell cell, bint fresh, Py_ssize_t seen) except -1:
        """Lie in a cell that has seen so many of the writes; -1 where it has no items yet."""
        mapped = memoryview(window_on(cell.at, cell.size, self.typecode, cell))
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
        """The items as an array.array: a copy once they are in the cell."""
        if self.items is not None:
            return self.items
        return array.array(self.typecode, self.there().tobytes())

    cdef object there(self):
        """The items in the cell."""
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
        # An array says what is wrong with a value as one should.
        one = array.array(self.typecode, (0,))
        one[0] = value
        self.there()[at] = one[0]

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
        cdef Py_ssize_t length = len(self)
        if type(key) is not int:
            raise TypeError("array indices must be integers")
        cdef Py_ssize_t at = PyNumber_AsSsize_t(key, IndexError)
        if at < 0:
            at += length
        if not 0 <= at < length:
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
        return add_to_item(
            self.cell.at + at * <Py_ssize_t>ITEM_SIZES[self.typecode], self.typecode, amount)

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
