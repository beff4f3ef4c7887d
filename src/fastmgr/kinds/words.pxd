"""Numbers in shared memory, and the steps that the server and its clients make on them.

To convert an argument may run users' code, and that may unmap memory or move a cell.  So a method
first converts its arguments (`whole`, `plain_key`, `plain_item`) and then finds the word.  From
there to the step it calls nothing that could run users' code.
"""

from cpython.number cimport PyNumber_Index

from fastmgr.memory.atomics cimport int64_t, uint64_t
from fastmgr.memory.arena cimport Cell

cdef extern from "Python.h":
    Py_ssize_t PyNumber_AsSsize_t(object number, object error) except? -1

cdef extern from *:
    """
    #define FM_MINUS_NAN ((uint64_t)0xfff8 << 48)
    #define FM_INTS ((uint64_t)0xfffa << 48)
    #define FM_SINGLES ((uint64_t)0xfffb << 48)
    #define FM_ASK ((uint64_t)0xfffc << 48)
    #define FM_TAG ((uint64_t)0xffff << 48)
    """
    # A Value's word has the bits of a float, or one of these marks in its upper 16 bits: as a float
    # such a word would be a NaN that Python never makes.
    uint64_t MINUS_NAN "FM_MINUS_NAN"
    uint64_t INTS "FM_INTS"         # below the mark: an int of 48 bits
    uint64_t SINGLES "FM_SINGLES"   # below the mark: 0 for None, 1 for False, 2 for True
    uint64_t ASK "FM_ASK"           # below the mark: a running number; the server has the object
    uint64_t TAG "FM_TAG"           # the 16 bits of a mark

cdef inline object whole(object number):
    """Return what stands for an int (`__index__`) as an int."""
    return number if type(number) is int else PyNumber_Index(number)

cdef object plain_key(object key)
cdef object plain_item(object typecode, object value)
cdef object spelled(object number)

cdef inline Py_ssize_t words_of(size_t size) noexcept:
    return <Py_ssize_t>(size // sizeof(uint64_t))

cdef inline uint64_t *word_in(Cell cell) except NULL:
    """Return the first word of a cell in the server, unless the cell's file was cut."""
    cell.check()
    return <uint64_t *>cell.at

# Steps on a counter's word, with ints.
cdef object counter_add(uint64_t *word, object amount, bint negative)
cdef object counter_get(const uint64_t *word)
cdef object counter_exchange(uint64_t *word, object value)
cdef object counter_replace(uint64_t *word, object expected, object desired)

cdef inline Py_ssize_t index_in(
    dict indices, Py_ssize_t length, object key, bint from_end
) except? -1:
    """Return the index for a key, which is a name if there are `indices`; -1 for none."""
    cdef Py_ssize_t i
    if indices is not None:
        found = indices.get(key)
        return -1 if found is None else found
    i = PyNumber_AsSsize_t(key, IndexError)
    if i < 0 and from_end:
        i += length
    return i if 0 <= i < length else -1

cdef inline Cell part_with(list parts, Py_ssize_t *i):
    """Return the cell that has the counter `i`; `i` becomes the counter's index in that cell."""
    cdef Cell part
    for part in parts:
        if i[0] < words_of(part.size):
            return part
        i[0] -= words_of(part.size)

# The word for a Value's object; False where only the server can keep the object.
cdef bint word_of(object value, uint64_t *word) except -1
cdef object value_of(uint64_t word)

cdef inline bint is_asked(uint64_t word) noexcept:
    """Whether only the server has the value; also of other words, which a faulty client wrote."""
    return word > (SINGLES | 2)

cdef dict ITEM_SIZES    # the typecodes of arrays that clients may map -> the size of an item
cdef int check_integers(object typecode) except -1
cdef object item_overflow(object typecode, object amount)
cdef object add_to_item(char *at, object typecode, object amount)
cdef object items_at(char *at, size_t size, object typecode, object owners)
