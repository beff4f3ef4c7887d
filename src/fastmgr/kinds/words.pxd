"""Numbers in shared memory, and the steps that both halves make on them."""

from fastmgr.memory.atomics cimport int64_t, uint64_t
from fastmgr.memory.cells cimport Cell

cdef extern from "Python.h":
    object PyNumber_Index(object number)

cdef extern from *:
    """
    #define FM_INTS ((uint64_t)0xfffa << 48)
    #define FM_SINGLES ((uint64_t)0xfffb << 48)
    #define FM_ASK ((uint64_t)0xfffc << 48)
    #define FM_TAG ((uint64_t)0xffff << 48)
    #define FM_MINUS_NAN ((uint64_t)0xfff8 << 48)
    """
    # A word that is no number of a float's and marks something else: the top sixteen bits.
    const uint64_t INTS "FM_INTS"           # 48 bits of an int follow
    const uint64_t SINGLES "FM_SINGLES"     # None, False, True
    const uint64_t ASK "FM_ASK"             # an object that the server has; a running number
    const uint64_t TAG "FM_TAG"
    const uint64_t MINUS_NAN "FM_MINUS_NAN"

# Users' code runs where something only stands for a number, and may take any memory away, or move
# it.  So first the arguments are made plain, by these, then the word is looked for, and then
# nothing is done but the step.

cdef inline object whole(object number):
    """An int, of what stands for one."""
    return number if type(number) is int else PyNumber_Index(number)

cdef inline uint64_t *word_in(Cell cell) except NULL:
    """Where the server finds a word."""
    cell.check()
    return <uint64_t *>cell.at

cdef object spelled(object number)
cdef object plain_key(object key)
cdef object plain_item(object typecode, object value)

# 0 where an int does not fit.
cdef bint as_int64(object number, int64_t *value) except -1

# A Value's word. 0 where the object has none.
cdef bint word_of(object value, uint64_t *word) except -1
cdef bint is_asked(uint64_t word) noexcept
cdef object value_of(uint64_t word)
cdef object add_to_word(uint64_t *word, object amount)

# Numbers are ints.
cdef object counter_add(uint64_t *word, object amount, bint negative)
cdef object counter_get(const uint64_t *word)
cdef object counter_exchange(uint64_t *word, object value)
cdef object counter_replace(uint64_t *word, object expected, object desired)

# The typecodes whose items clients may reach, and how they add to one; b"" for none.
cdef dict ITEM_SIZES
cdef bint is_plain_code(object typecode) noexcept
cdef int check_integers(object typecode) except -1
cdef object item_overflow(object typecode, object amount)
cdef object add_to_item(char *at, object typecode, object amount)

cdef Window window_on(char *at, size_t size, object typecode, object owners)

cdef class Window:
    cdef char *at                # in what `owners` keeps
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
    cdef bytes format
    cdef object owners
