# cython: auto_pickle=False
"""Numbers in shared memory: a counter's word, a value's word, an array's items.

The server and the clients on its host change them by these functions.  Each change is one atomic
step, so the server's calls and the clients' steps have one order, which all of them see.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.number cimport PyIndex_Check

from fastmgr.memory.atomics cimport (
    fm_add_signed, fm_add_unsigned, fm_bits_of, fm_double_of, fm_exchange, fm_load, fm_replace,
)

import array

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    object PyLong_FromLongLong(long long value)

cdef int64_t INT_LIMIT = <int64_t>1 << 47
cdef int64_t INT64_MIN = -<int64_t>0x7fffffffffffffff - 1


# -- counters -----------------------------------------------------------------

cdef inline bint as_int64(object number, int64_t *value) except -1:
    """Convert an int; False where that does not fit."""
    cdef int overflow = 0
    value[0] = PyLong_AsLongLongAndOverflow(number, &overflow)
    return overflow == 0


cdef object spelled(object number):
    """Return a number for a message: `str` may refuse a very long one."""
    bits = number.bit_length()
    return f"{number}" if bits <= 256 else f"an int of {bits} bits"


cdef inline int64_t fitting(object number) except? -1:
    cdef int64_t value
    if not as_int64(number, &value):
        raise OverflowError(f"{spelled(number)} does not fit the 64 bits of a counter")
    return value


cdef object counter_add(uint64_t *word, object amount, bint negative):
    cdef int64_t step, total
    if as_int64(amount, &step) and not (negative and step == INT64_MIN):
        if fm_add_signed(word, sizeof(uint64_t), -step if negative else step, &total):
            return PyLong_FromLongLong(total)
    else:
        result = add_much(word, -amount if negative else amount, True)
        if result is not None:
            return result
    raise OverflowError(
        f"{<int64_t>fm_load(word)} {'-' if negative else '+'} {spelled(amount)} does not fit the "
        "64 bits of a counter; it is left as it was"
    )


cdef object add_much(uint64_t *word, amount, bint is_signed):
    """Add an amount that does not fit 64 bits; None where the sum does not fit either."""
    cdef uint64_t before = fm_load(word)
    cdef object total, low = -2**63 if is_signed else 0, above = 2**63 if is_signed else 2**64
    while True:
        total = (PyLong_FromLongLong(<int64_t>before) if is_signed else before) + amount
        if not low <= total < above:
            return None
        if fm_replace(word, &before, <uint64_t>(total & 0xffffffffffffffff)):
            return total


cdef object counter_get(const uint64_t *word):
    return PyLong_FromLongLong(<int64_t>fm_load(word))


cdef object counter_exchange(uint64_t *word, object value):
    return PyLong_FromLongLong(<int64_t>fm_exchange(word, <uint64_t>fitting(value)))


cdef object counter_replace(uint64_t *word, object expected, object desired):
    cdef int64_t before, after = fitting(desired)
    return bool(
        as_int64(expected, &before)     # else no counter has this value
        and fm_replace(word, <uint64_t *>&before, <uint64_t>after)
    )


# -- values ---------------------------------------------------------------------

cdef bint word_of(object value, uint64_t *word) except -1:
    cdef int overflow
    cdef int64_t number
    kind = type(value)
    if kind is int:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        word[0] = INTS | (<uint64_t>number & ~TAG)
        return not overflow and -INT_LIMIT <= number < INT_LIMIT
    if kind is float:
        word[0] = fm_bits_of(value)
        return word[0] < INTS       # else the NaN would be read as a mark
    if value is None:
        word[0] = SINGLES
        return True
    word[0] = SINGLES | (2 if value is True else 1)
    return kind is bool


cdef object value_of(uint64_t word):
    if word < INTS:
        return fm_double_of(word)
    if word < SINGLES:
        return PyLong_FromLongLong(<int64_t>(word << 16) >> 16)
    return None if word == SINGLES else word == SINGLES | 2


# -- arrays ----------------------------------------------------------------------

cdef dict ITEM_SIZES = {code: array.array(code).itemsize for code in "bBhHiIlLqQfd"}


cdef object plain_part(object part):
    return PyNumber_Index(part) if type(part) is not int and PyIndex_Check(part) else part


cdef object plain_key(object key):
    """Return a key with ints in the place of all that stands for an int."""
    if type(key) is slice:
        return slice(plain_part(key.start), plain_part(key.stop), plain_part(key.step))
    return plain_part(key)


cdef object plain_item(object typecode, object value):
    """Return the number that an array makes of a value, or raise as an array does."""
    if type(value) is int or type(value) is float or typecode not in ITEM_SIZES:
        return value
    return array.array(typecode, (value,))[0]


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
    """Add to an item of an array of integers and return the sum (OverflowError if none fits)."""
    cdef int64_t step, total
    cdef uint64_t positive
    cdef size_t size = ITEM_SIZES[typecode]
    cdef bint is_signed = typecode.islower()
    if not as_int64(amount, &step):
        result = add_much(<uint64_t *>at, amount, is_signed) if size == 8 else None
        if result is not None:
            return result
    elif is_signed:
        if fm_add_signed(at, size, step, &total):
            return PyLong_FromLongLong(total)
    elif fm_add_unsigned(at, size, step, &positive):
        return positive
    item_overflow(typecode, amount)


@cython.final
cdef class Bytes:
    """A buffer over the bytes of a cell, which keeps the cell's `owners` alive."""

    cdef char *at
    cdef size_t size
    cdef object owners

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.at, <Py_ssize_t>self.size, 0, flags)


cdef object items_at(char *at, size_t size, object typecode, object owners):
    """Return the items of an array in a cell as a memoryview, which keeps `owners` alive."""
    cdef Bytes found = Bytes()
    if size == 0:
        return memoryview(array.array(typecode))    # `cast` refuses empty memory
    found.at, found.size, found.owners = at, size, owners
    return memoryview(found).cast(typecode)
