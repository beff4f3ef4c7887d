# cython: auto_pickle=False
"""Numbers in shared memory: a counter's word, a value's word, an array's items.

Both halves work on them by the steps in here.  What a call through the server does and what a
client does by itself are therefore one after the other, in one order for all.
"""

cimport cython

from fastmgr.memory.atomics cimport (
    fm_add_i8, fm_add_i16, fm_add_i32, fm_add_i64, fm_add_u8, fm_add_u16, fm_add_u32, fm_add_u64,
    fm_bits_of, fm_double_of, fm_exchange, fm_load, fm_replace, int8_t, int16_t, int32_t, uint8_t,
    uint16_t, uint32_t,
)

import array

cdef extern from "Python.h":
    bint PyIndex_Check(object number)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    object PyLong_FromLongLong(long long value)

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
