"""Values to bytes (`tags.pxd` describes the encoding)."""

cimport cython
from cpython cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
    PyComplex_CheckExact, PyComplex_ImagAsDouble, PyComplex_RealAsDouble, PyDict_CheckExact,
    PyDict_Next, PyDict_Size, PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFrozenSet_CheckExact,
    PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE, PyLong_AsLongLongAndOverflow,
    PyLong_CheckExact, PyObject, PySet_GET_SIZE, PyTuple_CheckExact, PyTuple_GET_ITEM,
    PyTuple_GET_SIZE, PyTypeObject, PyUnicode_AsUTF8String, PyUnicode_CheckExact, Py_TYPE,
)
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE,
)
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from fastmgr.wire.opaque cimport Opaque, has_reducer, names_a_process, pickled
from fastmgr.wire.tags cimport *

cdef extern from "Python.h":
    ctypedef struct PyBaseExceptionObject:
        PyObject *attributes "dict"     # NULL until somebody asks for it
        PyObject *args
    ctypedef struct PySliceObject:
        PyObject *start
        PyObject *stop
        PyObject *step
    PyTypeObject PyDictKeys_Type, PyDictValues_Type, PyDictItems_Type
    const Py_ssize_t PY_SSIZE_T_MAX
    bint PyExceptionInstance_Check(object o)
    bint PySet_CheckExact(object o)
    bint PySlice_Check(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    void *PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)

cdef enum:
    ENCODE_DEPTH = 32           # of nested containers; deeper values are pickled
    IDENTITIES = 64             # objects that are remembered of one value, to find those met twice
    BUDGET = 1 << 20            # bytes; see Walk.limit
    LARGEST_LIST = 8 << 20      # bytes of a list that is encoded without pickle, value by value
    LARGEST_INT = 1 << 16       # bytes
    HEAD = 10                   # bytes of the longest tag and size; no number with its tag has more
    KEPT = 256 * 1024           # bytes that a Writer's buffer has at most after a reset
    SMALL = 4096                # and at first

# The exceptions that have nothing but their type and args. Their order is part of the format.
ERRORS = (
    KeyError, IndexError, ValueError, TypeError, StopIteration, ZeroDivisionError, RuntimeError,
    OverflowError, LookupError, ArithmeticError, NotImplementedError, AssertionError, EOFError,
)
cdef tuple _errors = ERRORS
cdef int N_ERRORS = len(ERRORS)


cdef struct Walk:
    # One value that is being encoded.
    PyObject *seen[IDENTITIES]  # compared, never followed
    int count
    int keyed           # above 0 within a key or a set's member, which the peer has to hash
    # The most that w.size may be. (t, t) of (t, t) of ... 32 levels deep has four billion elements.
    # Pickle writes each tuple once; we look for no immutables that repeat, and so give up early.
    # Large leaves raise the limit.
    size_t limit


cdef inline bint _repeats(Walk *walk, object value) noexcept:
    """Whether `value` was met before, or may have been, for there is no room to remember more."""
    cdef PyObject *it = <PyObject *>value
    cdef int i
    for i in range(walk.count):
        if walk.seen[i] == it:
            return True
    if walk.count == IDENTITIES:
        return True
    walk.seen[walk.count] = it
    walk.count += 1
    return False


# Encoding. Each function returns 0, or 1 where the value needs pickle: then put_compact takes back
# what was written. A container may change meanwhile (the garbage collector can run a finalizer, and
# that lets another thread run). So the items of mutable ones are held while they are encoded, and a
# container whose count has changed is left to pickle.

cdef inline char *_room(Writer w, size_t n) except NULL:
    if w.capacity - w.size < n:
        w.grow(n)
    return w.data + w.size


cdef inline int _put_fixed(Writer w, Tag tag, uint64_t bits, size_t n) except -1:
    """Write a tag and the low `n` bytes of `bits`; to store all eight takes no branch."""
    cdef char *at = _room(w, HEAD)
    at[0] = <char>tag
    store(at + 1, bits)
    w.size += 1 + n
    return 0


cdef inline char *_put_head(Writer w, Tag tag, Py_ssize_t n, Py_ssize_t body) except NULL:
    """Write a tag and a size; return where the `body` bytes go, for which there is room now."""
    cdef char *at = _room(w, HEAD + <size_t>body)
    at[0] = <char>tag
    if n < 255:
        at[1] = <char>n
        w.size += 2
    else:
        at[1] = <char>255
        store(at + 2, <uint64_t>n)
        w.size += HEAD
    return w.data + w.size


cdef int _put_bytes(
    Writer w, Walk *walk, Tag tag, object owner, const char *data, Py_ssize_t n
) except -1:
    if n >= LARGE:
        if tag != BYTEARRAY and _repeats(walk, owner):
            return 1
        if w.out_of_band and (tag == BYTES or tag == BYTEARRAY):
            if tag == BYTEARRAY:
                owner = PyBytes_FromStringAndSize(data, n)      # it may change while it is sent
            return _put_outside(w, owner, tag == BYTEARRAY)
        walk.limit += <size_t>n
    memcpy(_put_head(w, tag, n, n), data, <size_t>n)
    w.size += <size_t>n
    return 0


cdef int _put_outside(Writer w, object buffer, bint writable) except -1:
    """Leave out a buffer that never changes: it is sent from where it lies."""
    if w.buffers is None:
        w.buffers = []
        w.writable = []
    w.buffers.append(buffer)
    w.writable.append(writable)
    _room(w, HEAD)[0] = <char>OUTSIDE
    w.size += 1
    return 0


cdef int _put_str(Writer w, object value, Walk *walk) except -1:
    cdef bytes utf8
    if PyUnicode_IS_COMPACT_ASCII(value):
        return _put_bytes(
            w, walk, STR, value, <const char *>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
    try:
        utf8 = PyUnicode_AsUTF8String(value)    # AsUTF8AndSize leaves a copy in the str for good
    except UnicodeEncodeError:                  # a lone surrogate
        return 1
    return _put_bytes(w, walk, STR, value, PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8))


cdef int _put_big_int(Writer w, object value, Walk *walk) except -1:
    cdef Py_ssize_t n = value.bit_length() // 8 + 1
    if n > LARGEST_INT:
        return 1
    cdef bytes data = value.to_bytes(n, "little", signed=True)
    return _put_bytes(w, walk, INT_N, value, PyBytes_AS_STRING(data), n)


cdef inline int _put_int(Writer w, object value, Walk *walk) except -1:
    cdef int overflow = 0
    cdef long long v = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return _put_big_int(w, value, walk)
    if -128 <= v <= 127:
        return _put_fixed(w, INT_1, <uint64_t>v, 1)
    if -0x80000000 <= v <= 0x7fffffff:
        return _put_fixed(w, INT_4, <uint64_t>v, 4)
    return _put_fixed(w, INT_8, <uint64_t>v, 8)


cdef int _put_tuple(Writer w, object value, Walk *walk, int depth) except -1:
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(value)
    _put_head(w, TUPLE, n, 0)
    for i in range(n):
        if _encode(w, <object>PyTuple_GET_ITEM(value, i), walk, depth):
            return 1
    return 0


cdef int _put_list(Writer w, list value, Walk *walk, int depth) except -1:
    cdef Py_ssize_t i = 0, n = PyList_GET_SIZE(value)
    cdef object item
    _put_head(w, LIST, n, 0)
    while i < n:
        if PyList_GET_SIZE(value) != n:
            return 1
        item = <object>PyList_GET_ITEM(value, i)
        if _encode(w, item, walk, depth):
            return 1
        i += 1
    return 0


cdef int _put_dict(Writer w, object value, Walk *walk, int depth) except -1:
    cdef Py_ssize_t at = 0, left = PyDict_Size(value)
    cdef PyObject *borrowed_key = NULL
    cdef PyObject *borrowed_item = NULL
    cdef object key, item
    cdef int failed
    _put_head(w, DICT, left, 0)
    while PyDict_Next(value, &at, &borrowed_key, &borrowed_item):
        if left == 0:
            return 1
        left -= 1
        key = <object>borrowed_key
        item = <object>borrowed_item
        walk.keyed += 1
        failed = _encode(w, key, walk, depth)
        walk.keyed -= 1
        if failed or _encode(w, item, walk, depth):
            return 1
    return left != 0


cdef int _put_set(Writer w, Tag tag, object value, Walk *walk, int depth) except -1:
    cdef Py_ssize_t left = PySet_GET_SIZE(value)
    cdef object member
    _put_head(w, tag, left, 0)
    walk.keyed += 1
    for member in value:
        left -= 1
        if _encode(w, member, walk, depth):
            return 1
    walk.keyed -= 1
    return left != 0


cdef int _put_slice(Writer w, object value, Walk *walk, int depth) except -1:
    cdef PySliceObject *parts = <PySliceObject *>value
    # Slices have a hash since 3.12 only, and the peer may be older.
    if walk.keyed or has_reducer(<object>Py_TYPE(value)):
        return 1
    _put_fixed(w, SLICE, 0, 0)
    return (
        _encode(w, <object>parts.start, walk, depth)
        or _encode(w, <object>parts.stop, walk, depth)
        or _encode(w, <object>parts.step, walk, depth)
    )


cdef int _put_error(Writer w, object value, Walk *walk, int depth) except -1:
    """Write what pickle keeps of an error, type and args, if its `__dict__` (notes) is empty."""
    cdef PyBaseExceptionObject *error = <PyBaseExceptionObject *>value
    cdef int i
    for i in range(N_ERRORS):
        if PyTuple_GET_ITEM(_errors, i) == <PyObject *>Py_TYPE(value):
            break
    else:
        return 1
    if error.args is NULL or error.attributes is not NULL and PyDict_Size(<object>error.attributes):
        return 1
    cdef object args = <object>error.args
    if not PyTuple_CheckExact(args) or has_reducer(<object>Py_TYPE(value)) or _repeats(walk, value):
        return 1
    _put_fixed(w, ERROR, <uint64_t>i, 1)
    return _put_tuple(w, args, walk, depth)


cdef int _encode(Writer w, object value, Walk *walk, int depth) except -1:
    cdef PyTypeObject *kind = Py_TYPE(value)
    if w.size > walk.limit:
        return 1
    if PyUnicode_CheckExact(value):
        return _put_str(w, value, walk)
    if PyLong_CheckExact(value):
        return _put_int(w, value, walk)
    if value is None:
        return _put_fixed(w, NONE, 0, 0)
    if value is True:
        return _put_fixed(w, TRUE, 0, 0)
    if value is False:
        return _put_fixed(w, FALSE, 0, 0)
    if PyFloat_CheckExact(value):
        return _put_fixed(w, FLOAT, bits_of(PyFloat_AS_DOUBLE(value)), 8)
    if PyBytes_CheckExact(value):
        return _put_bytes(w, walk, BYTES, value, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if depth == ENCODE_DEPTH:
        return 1
    depth += 1
    if PyTuple_CheckExact(value):
        return _put_tuple(w, value, walk, depth)
    if PyList_CheckExact(value):
        return _repeats(walk, value) or _put_list(w, <list>value, walk, depth)
    if PyDict_CheckExact(value):
        return _repeats(walk, value) or _put_dict(w, value, walk, depth)
    if PySet_CheckExact(value):
        return _repeats(walk, value) or _put_set(w, SET, value, walk, depth)
    if PyFrozenSet_CheckExact(value):
        return _put_set(w, FROZENSET, value, walk, depth)
    if PyByteArray_CheckExact(value):
        return _repeats(walk, value) or _put_bytes(
            w, walk, BYTEARRAY, value, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value))
    if PySlice_Check(value):
        return _put_slice(w, value, walk, depth)
    if PyExceptionInstance_Check(value):
        return _put_error(w, value, walk, depth)
    if kind == &PyDictKeys_Type or kind == &PyDictValues_Type or kind == &PyDictItems_Type:
        # The peer gets a list, as from multiprocessing, which cannot be in a key.
        return walk.keyed or _repeats(walk, value) or _put_list(w, list(value), walk, depth)
    if kind == <PyTypeObject *>Opaque:
        return walk.keyed or _put_pickled(w, (<Opaque>value).data, (<Opaque>value).buffers, walk)
    if PyComplex_CheckExact(value):
        _put_fixed(w, COMPLEX, bits_of(PyComplex_RealAsDouble(value)), 8)
        store(_room(w, 8), bits_of(PyComplex_ImagAsDouble(value)))
        w.size += 8
        return 0
    return 1


cdef int _put_pickled(Writer w, bytes data, object buffers, Walk *walk) except -1:
    """Write a pickle, and its large buffers, which never change."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef char *at = _room(w, 9 + <size_t>n)
    w.pickles += 1
    if walk is not NULL:
        walk.limit += <size_t>n
    at[0] = <char>(BUFFERED if buffers else PICKLE)
    store(at + 1, <uint64_t>n)
    w.size += 9
    w.write(PyBytes_AS_STRING(data), <size_t>n)
    if not buffers:
        return 0
    _put_head(w, TUPLE, len(buffers), 0)
    for buffer in buffers:
        writable = PyByteArray_CheckExact(buffer)
        n = len(buffer)
        if w.out_of_band and n >= LARGE:
            _put_outside(w, buffer, writable)
            continue
        if walk is not NULL:
            walk.limit += <size_t>n
        _put_head(w, BYTEARRAY if writable else BYTES, n, n)
        w.write(PyByteArray_AS_STRING(buffer) if writable else PyBytes_AS_STRING(buffer), n)
    return 0


cdef int _put_pickle(Writer w, object value) except -1:
    """Pickle a value; return 1 if it may be carried unread, 2 if not."""
    cdef list buffers = [] if w.out_of_band else None
    cdef bytes data = pickled(value, buffers)
    _put_pickled(w, data, buffers, NULL)
    return 2 if names_a_process(data) else 1


cdef int _take_back(Writer w, size_t size, int pickles, Py_ssize_t buffers) except -1:
    """Be again what `w` was before something was written."""
    w.size = size
    w.pickles = pickles
    if w.buffers is not None:
        del w.buffers[buffers:]
        del w.writable[buffers:]
    return 0


cdef bint is_scalar(object value) noexcept:
    return (
        PyUnicode_CheckExact(value) or PyLong_CheckExact(value) or PyBytes_CheckExact(value)
        or PyFloat_CheckExact(value) or value is None or value is True or value is False
    )


@cython.final
@cython.auto_pickle(False)
@cython.freelist(8)
cdef class Writer:
    """A growable buffer of encoded values."""

    def __dealloc__(self):
        free(self.data)

    cdef int grow(self, size_t extra) except -1:
        if extra > <size_t>PY_SSIZE_T_MAX - self.size:
            raise MemoryError
        if self.size + extra <= self.capacity:
            return 0
        cdef size_t capacity = max(self.size + extra, <size_t>SMALL, 2 * self.capacity)
        cdef char *data = <char *>realloc(self.data, capacity)
        if data is NULL:
            raise MemoryError
        self.data = data
        self.capacity = capacity
        return 0

    cdef int write(self, const void *source, size_t n) except -1:
        if n:
            memcpy(_room(self, n), source, n)
            self.size += n
        return 0

    cdef int put_compact(self, object value) except -1:
        cdef size_t start = self.size
        cdef Walk walk
        cdef int outcome = -1
        walk.count = walk.keyed = 0
        walk.limit = start + BUDGET
        cdef Py_ssize_t buffers = len(self.buffers) if self.buffers is not None else 0
        cdef int pickles = self.pickles
        try:
            outcome = _encode(self, value, &walk, 0)
        finally:
            if outcome:
                _take_back(self, start, pickles, buffers)
        return outcome

    cdef int put_each_compact(self, list values) except -1:
        cdef size_t start = self.size
        cdef Py_ssize_t buffers = len(self.buffers) if self.buffers is not None else 0
        cdef int pickles = self.pickles
        cdef int outcome = 0
        _put_head(self, LIST, len(values), 0)
        for value in values:
            outcome = self.size - start > LARGEST_LIST or self.put_compact(value)
            if outcome:
                _take_back(self, start, pickles, buffers)
                break
        return outcome

    cdef int put(self, object value) except -1:
        if self.put_compact(value) == 0:
            return 0
        _put_pickle(self, value)
        return 1

    cdef int put_each(self, list values) except -1:
        cdef int outcome = 0
        _put_head(self, LIST, len(values), 0)
        for value in values:
            if self.put_compact(value):
                outcome = max(outcome, _put_pickle(self, value))
        return outcome

    cdef int put_apart(self, tuple args) except -1:
        cdef Py_ssize_t i, n = PyTuple_GET_SIZE(args)
        cdef list values = list(args[0])        # a copy: pickling runs any code
        cdef int outcome
        _put_head(self, TUPLE, n, 0)
        outcome = self.put_each(values)
        for i in range(1, n):
            if self.put(<object>PyTuple_GET_ITEM(args, i)):
                outcome = 2
        return outcome

    cdef int put_args(self, tuple args) except -1:
        cdef Py_ssize_t i, odd = -1, n = PyTuple_GET_SIZE(args)
        cdef size_t start = self.size
        cdef int outcome = 2
        for i in range(n):
            if not is_scalar(<object>PyTuple_GET_ITEM(args, i)):
                if odd >= 0:
                    break
                odd = i
        else:
            if odd >= 0:
                _put_head(self, TUPLE, n, 0)
                for i in range(n):
                    if i == odd:
                        outcome = _put_pickle(self, <object>PyTuple_GET_ITEM(args, i))
                    elif self.put_compact(<object>PyTuple_GET_ITEM(args, i)):
                        break
                else:
                    return outcome
                self.size = start
                self.buffers = self.writable = None
        _put_pickle(self, args)
        return 2

    cdef char *insert(self, size_t at, size_t n) except NULL:
        self.grow(n)
        memmove(self.data + at + n, self.data + at, self.size - at)
        self.size += n
        return self.data + at

    cdef void reset(self) noexcept:
        cdef char *data
        self.size = self.pickles = 0
        self.buffers = self.writable = None
        if self.capacity > KEPT:
            data = <char *>realloc(self.data, SMALL)
            if data is not NULL:
                self.data = data
                self.capacity = SMALL


def dumps(value):
    """Encode a value for `loads`, with pickle where it must be."""
    cdef Writer w = Writer.__new__(Writer)
    w.put(value)
    return PyBytes_FromStringAndSize(w.data, <Py_ssize_t>w.size)
