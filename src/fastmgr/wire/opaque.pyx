"""The values of the fast dialect: bytes in, objects out, no descriptor in sight.

A value is a tag byte and what the tag calls for, numbers little-endian. A *size* is one byte below
255, or 255 and eight bytes. ::

    PICKLE  8-byte length, a pickle       BUFFERED  as PICKLE, then a TUPLE of its buffers
    OUTSIDE                               INT_1, INT_4, INT_8  1, 4, 8 bytes
    NONE, TRUE, FALSE                     INT_N                size, two's complement
    FLOAT   8 bytes                       STR, BYTES, BYTEARRAY  size, bytes (STR in UTF-8)
    COMPLEX 16 bytes                      TUPLE, LIST          size, elements
    SLICE   3 values                      SET, FROZENSET       size, members
    ERROR   1 byte (of ERRORS), a TUPLE   DICT                 size, pairs

Only exact built-in types are compact: a subclass means more than its base, and pickle knows what.
A value is pickled as a whole, not in parts, so that what it shares with itself stays shared; for
the same reason a value that holds a mutable object twice is pickled. Within a container there are
only pickles that came so: a server keeps such a value unread (`Opaque`) if it has only to hand it
back.

Large buffers may stay outside (OUTSIDE: the next of those that come with the values), so that
neither side copies them: they are sent from where they are and received where they are to be.
"""

cimport cython
from cpython cimport (
    PyErr_Clear, PyErr_ExceptionMatches,
    PyBUF_SIMPLE, PyBuffer_Release, PyBytes_AS_STRING, PyBytes_CheckExact,
    PyBytes_FromStringAndSize, PyBytes_GET_SIZE, PyComplex_CheckExact, PyComplex_FromDoubles,
    PyComplex_ImagAsDouble, PyComplex_RealAsDouble, PyDict_CheckExact, PyDict_Next,
    PyDict_Size, PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFloat_FromDouble,
    PyFrozenSet_CheckExact, PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE, PyList_New,
    PyList_SET_ITEM, PyLong_AsLongLongAndOverflow, PyLong_CheckExact, PyLong_FromLong,
    PyLong_FromLongLong, PyObject, PyObject_GetBuffer, PySet_GET_SIZE,
    PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM,
    PyTypeObject, PyUnicode_AsUTF8String, PyUnicode_CheckExact, PyUnicode_DecodeUTF8, Py_INCREF,
    Py_TYPE,
)
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_FromStringAndSize,
    PyByteArray_GET_SIZE,
)
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef extern from "wire/nesting.h" nogil:
    int FM_NESTING_FINE, FM_NESTING_MEMO, FM_NESTING_NO_MEMORY
    int fm_nesting_of(const char *data, size_t n, int limit)

import copyreg
from copyreg import dispatch_table as _global_reducers
from functools import partial
from io import BytesIO
from multiprocessing.reduction import ForkingPickler
from pickle import Pickler, loads as _loads


cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define FM_WIRE_LE32(v) __builtin_bswap32(v)
    #define FM_WIRE_LE64(v) __builtin_bswap64(v)
    #else
    #define FM_WIRE_LE32(v) (v)
    #define FM_WIRE_LE64(v) (v)
    #endif
    static inline void fm_wire_store(char *to, uint64_t v) {
        v = FM_WIRE_LE64(v);
        memcpy(to, &v, 8);
    }
    static inline uint64_t fm_wire_load(const char *from) {
        uint64_t v;
        memcpy(&v, from, 8);
        return FM_WIRE_LE64(v);
    }
    static inline uint32_t fm_wire_load_4(const char *from) {
        uint32_t v;
        memcpy(&v, from, 4);
        return FM_WIRE_LE32(v);
    }
    static inline uint64_t fm_wire_bits(double d) {
        uint64_t v;
        memcpy(&v, &d, 8);
        return v;
    }
    static inline double fm_wire_double(uint64_t v) {
        double d;
        memcpy(&d, &v, 8);
        return d;
    }
    """
    void fm_wire_store(char *to, uint64_t v) noexcept
    uint64_t fm_wire_load(const char *at) noexcept
    uint32_t fm_wire_load_4(const char *at) noexcept
    uint64_t fm_wire_bits(double d) noexcept
    double fm_wire_double(uint64_t v) noexcept

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
    # Without a check for errors: the callers do that.
    int set_item "PyDict_SetItem" (object mapping, object key, object value) noexcept
    int add_member "PySet_Add" (object members, object member) noexcept
    bint PySet_CheckExact(object o)
    bint PySlice_Check(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    void *PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)
    object PySet_New(PyObject *members)
    object PyFrozenSet_New(PyObject *members)
    object PySlice_New(PyObject *start, PyObject *stop, PyObject *step)
    object PyObject_CallObject(PyObject *function, object args)

cdef enum Tag:
    PICKLE = FM_WIRE_PICKLE
    NONE, TRUE, FALSE, INT_1, INT_4, INT_8, INT_N, FLOAT, COMPLEX, STR, BYTES,
    BYTEARRAY, TUPLE, LIST, DICT, SET, FROZENSET, SLICE, ERROR, BUFFERED, OUTSIDE

cdef enum:
    ENCODE_DEPTH = 32           # of nested containers; deeper values are pickled
    DECODE_DEPTH = 64           # a later version may nest deeper than this one writes
    IDENTITIES = 64             # objects whose identity one value is searched for
    LARGE = 1 << 16             # bytes; above it even an immutable is worth not writing twice
    BUDGET = 1 << 20            # bytes; see Walk.limit
    LARGEST_INT = 1 << 16       # bytes
    PICKLE_DEPTH = 10000        # levels: each may take some hundred bytes of a thread's stack
    HEAD = 10                   # the longest tag and size, and longer than any number with its tag
    KEPT = 256 * 1024           # bytes of buffer a Writer keeps when it is reset
    SMALL = 4096                # and what it starts with

# The exceptions that are nothing but their type and args. Their order is part of the format.
cdef tuple ERRORS = (
    KeyError, IndexError, ValueError, TypeError, StopIteration, ZeroDivisionError, RuntimeError,
    OverflowError, LookupError, ArithmeticError, NotImplementedError, AssertionError, EOFError,
)
cdef int N_ERRORS = len(ERRORS)
cdef dict _own_reducers = ForkingPickler._extra_reducers
cdef object _pickler = Pickler
cdef object _int_from_bytes = int.from_bytes


class WireError(ValueError):
    """The bytes are not a value, or not one that is allowed here."""


cpdef int check_nesting(bytes data) except -1:
    """Refuse a pickle that cannot be read without harm, whatever it names.

    Raises
    ------
    WireError
        It nests too deeply, or has the unpickler make a table that it could not fill.
    """
    cdef int outcome = fm_nesting_of(
        PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), PICKLE_DEPTH)
    if outcome == FM_NESTING_FINE:
        return 0
    if outcome == FM_NESTING_NO_MEMORY:
        raise MemoryError(f"no memory to look over a pickle of {len(data)} bytes")
    if outcome == FM_NESTING_MEMO:
        raise WireError(f"a pickle of {len(data)} bytes that remembers more than it can have")
    raise WireError(
        f"a value nested more than {PICKLE_DEPTH} levels deep: hashing it could end the process. "
        "Pass it in a flatter form"
    )


cdef object _unpickle(bytes data, object buffers):
    check_nesting(data)
    return _loads(data, buffers=buffers)


@cython.final
@cython.auto_pickle(False)
cdef class Opaque:
    """A value that is kept as the pickle it came as; pickled again, it is that value."""

    cpdef object load(self):
        """Return the value; runs whatever code its pickle names.

        Its buffers stay ours: they may be on their way to somebody this moment.
        """
        if self.buffers is None:
            return _unpickle(self.data, None)
        return _unpickle(self.data, [
            bytearray(buffer) if PyByteArray_CheckExact(buffer) else buffer
            for buffer in self.buffers
        ])

    def __reduce__(self):
        if self.buffers:
            return partial(_loads, buffers=list(self.buffers)), (self.data,)
        return _loads, (self.data,)

    def __repr__(self):
        try:
            return repr(self.load())
        except Exception:
            return f"<pickled object, {len(self.data)} bytes>"


cdef struct Walk:
    # One value being encoded. Lives on the stack of put_compact; the pointers are compared, never
    # followed.
    PyObject *seen[IDENTITIES]
    int count
    # Above 0 within a dict key or a set member, which the peer must be able to hash.
    int keyed
    # The most w.size may be. (t, t) of (t, t) of ... 32 levels deep has four billion elements:
    # pickle writes each tuple once, we look for no immutables that repeat, so we stop early.
    # Large leaves raise the limit.
    size_t limit


cdef inline bint _repeats(Walk *walk, object value) noexcept:
    """Whether `value` was met before, or may have been: there is no room left to remember it."""
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


# Encoding. Each function returns 0, or 1 for "this value needs pickle"; put_compact takes back
# what they wrote. A container may change under our feet (a collection can run a finalizer, and
# that another thread), so items of mutable ones are held while they are encoded, and a count that
# proves wrong leaves the matter to pickle.

cdef inline char *_room(Writer w, size_t n) except NULL:
    if w.capacity - w.size < n:
        w.grow(n)
    return w.data + w.size


cdef inline int _put_fixed(Writer w, Tag tag, uint64_t bits, size_t n) except -1:
    """Write a tag and the low `n` bytes of `bits`; all eight are stored, which needs no branch."""
    cdef char *at = _room(w, HEAD)
    at[0] = <char>tag
    fm_wire_store(at + 1, bits)
    w.size += 1 + n
    return 0


cdef inline char *_put_head(Writer w, Tag tag, Py_ssize_t n, Py_ssize_t body) except NULL:
    """Write a tag and a size; return where there now is room for `body` bytes."""
    cdef char *at = _room(w, HEAD + <size_t>body)
    at[0] = <char>tag
    if n < 255:
        at[1] = <char>n
        w.size += 2
    else:
        at[1] = <char>255
        fm_wire_store(at + 2, <uint64_t>n)
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
    """Leave a buffer that never changes to be sent from where it is."""
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
    # Hashable since 3.12 only, and the peer may be older.
    if walk.keyed or _has_reducer(value):
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
        if PyTuple_GET_ITEM(ERRORS, i) == <PyObject *>Py_TYPE(value):
            break
    else:
        return 1
    if error.attributes is not NULL and PyDict_Size(<object>error.attributes):
        return 1
    if error.args is NULL:
        return 1
    cdef object args = <object>error.args
    if not PyTuple_CheckExact(args) or _has_reducer(value) or _repeats(walk, value):
        return 1
    _put_fixed(w, ERROR, <uint64_t>i, 1)
    return _put_tuple(w, args, walk, depth)


cdef bint _has_reducer(object value) except -1:
    """Whether somebody taught pickle (as tblib does for exceptions) another way with this type."""
    cdef object kind = <object>Py_TYPE(value)
    return kind in _own_reducers or kind in <dict>_global_reducers


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
        return _put_fixed(w, FLOAT, fm_wire_bits(PyFloat_AS_DOUBLE(value)), 8)
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
        # A list over there, as multiprocessing has it; so not in a key, though dict_values have a
        # hash.
        return walk.keyed or _repeats(walk, value) or _put_list(w, list(value), walk, depth)
    if kind == <PyTypeObject *>Opaque:
        return _put_opaque(w, <Opaque>value, walk)
    if PyComplex_CheckExact(value):
        _put_fixed(w, COMPLEX, fm_wire_bits(PyComplex_RealAsDouble(value)), 8)
        fm_wire_store(_room(w, 8), fm_wire_bits(PyComplex_ImagAsDouble(value)))
        w.size += 8
        return 0
    return 1


cdef int _put_pickled(Writer w, object data, object buffers, Walk *walk) except -1:
    """Write a pickle, and its large buffers; `data` and they never change."""
    cdef Py_buffer view
    cdef char head[9]
    cdef Py_ssize_t n
    w.pickles += 1
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if walk is not NULL:
            walk.limit += <size_t>view.len
        _room(w, 9 + <size_t>view.len)
        head[0] = <char>(BUFFERED if buffers else PICKLE)
        fm_wire_store(&head[1], <uint64_t>view.len)
        w.write(head, 9)
        w.write(view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
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


cdef int _put_opaque(Writer w, Opaque value, Walk *walk) except -1:
    if walk.keyed:
        return 1
    return _put_pickled(w, value.data, value.buffers, walk)


@cython.final
@cython.internal
cdef class _Outside:
    """What a pickler asks whether a buffer is to stay out of the pickle."""

    cdef list buffers

    def __call__(self, buffer):
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True
        # A snapshot: what can be written to may change while it is sent.
        self.buffers.append(bytes(raw) if raw.readonly else bytearray(raw))
        return False


def use_pickler(kind):
    """Pickle by a class of that kind, a subclass of `pickle.Pickler`, from now on."""
    global _pickler
    _pickler = kind


cdef int _put_pickle(Writer w, object value) except -1:
    """Pickle a value; 1 if it may be carried unread, 2 if not."""
    cdef _Outside outside = None
    if w.out_of_band:
        outside = _Outside()
        outside.buffers = []
    file = BytesIO()
    pickler = _pickler(file, 5, buffer_callback=outside)
    # What ForkingPickler does, with a dict in place of its slower chain of dicts.
    pickler.dispatch_table = {**copyreg.dispatch_table, **_own_reducers}
    pickler.dump(value)
    data = file.getvalue()
    _put_pickled(w, data, outside.buffers if w.out_of_band else None, NULL)
    # Proxies, connections, sockets and whatever else refers to a process: the server must hold
    # its own. Their pickles name the module that makes them.
    return 2 if b"multiprocessing" in data or b"fastmgr" in data else 1


cdef bint is_scalar(object value) noexcept:
    """Whether nobody can tell two copies of the value from one."""
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
        cdef size_t needed = self.size + extra
        if needed <= self.capacity:
            return 0
        cdef size_t capacity = max(needed, <size_t>SMALL)
        if capacity < 2 * self.capacity:
            capacity = 2 * self.capacity
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
        walk.count = 0
        walk.keyed = 0
        walk.limit = start + BUDGET
        cdef Py_ssize_t buffers = len(self.buffers) if self.buffers is not None else 0
        cdef int pickles = self.pickles
        try:
            outcome = _encode(self, value, &walk, 0)
        finally:
            if outcome:
                self.size = start
                self.pickles = pickles
                if self.buffers is not None:
                    del self.buffers[buffers:]
                    del self.writable[buffers:]
        return outcome

    cdef int put(self, object value) except -1:
        if self.put_compact(value) == 0:
            return 0
        _put_pickle(self, value)
        return 1

    cdef int put_args(self, tuple args) except -1:
        cdef Py_ssize_t i, odd = -1, n = PyTuple_GET_SIZE(args)
        cdef size_t start = self.size
        cdef int outcome = 2
        if self.put_compact(args) == 0:
            return 0
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
        self.size = 0
        self.pickles = 0
        self.buffers = self.writable = None
        if self.capacity > KEPT:
            data = <char *>realloc(self.data, SMALL)
            if data is not NULL:
                self.data = data
                self.capacity = SMALL


# Decoding. Nothing the bytes say is believed: a size is checked against what is left before
# anything is made of it. `owed` is the elements that the enclosing containers still wait for, a
# byte each at the least: without it, containers that each claim all the rest could ask for the
# input's length times its depth.

cdef int _refuse(str why) except -1:
    raise WireError(why)


cdef int _refuse_key() except -1:
    """The error that is set came from a key or a member."""
    if PyErr_ExceptionMatches(TypeError):
        PyErr_Clear()
        _refuse("a key or member that has no hash")
    return -1


cdef inline const char *_take(Reader r, size_t n) except NULL:
    cdef const char *at = r.pos
    if <size_t>(r.end - at) < n:
        _refuse("truncated value")
    r.pos = at + n
    return at


cdef inline Py_ssize_t _take_size(Reader r, size_t owed) except -1:
    cdef uint64_t n = <unsigned char>_take(r, 1)[0]
    if n == 255:
        n = fm_wire_load(_take(r, 8))
    cdef size_t left = <size_t>(r.end - r.pos)
    if n > left or owed > left - n:
        _refuse("a size beyond the end of the value")
    return <Py_ssize_t>n


cdef object _get_str(const char *at, Py_ssize_t n):
    try:
        return PyUnicode_DecodeUTF8(<char *>at, n, NULL)
    except UnicodeDecodeError as error:
        raise WireError(str(error)) from None


cdef tuple _get_tuple(Reader r, int depth, size_t owed):
    cdef Py_ssize_t i, n = _take_size(r, owed)
    cdef tuple result = PyTuple_New(n)    # NULL until filled, as its deallocator knows
    cdef object item
    for i in range(n):
        item = _decode(r, depth, owed + <size_t>(n - i - 1))
        Py_INCREF(item)                     # SET_ITEM steals
        PyTuple_SET_ITEM(result, i, item)
    return result


cdef list _get_list(Reader r, int depth, size_t owed):
    cdef Py_ssize_t i, n = _take_size(r, owed)
    cdef list result = PyList_New(n)
    cdef object item
    for i in range(n):
        item = _decode(r, depth, owed + <size_t>(n - i - 1))
        Py_INCREF(item)
        PyList_SET_ITEM(result, i, item)
    return result


cdef dict _get_dict(Reader r, int depth, size_t owed):
    cdef Py_ssize_t n = _take_size(r, owed)
    cdef dict result = {}
    cdef object key, item
    while n:
        n -= 1
        key = _decode(r, depth, owed + <size_t>n + 1)
        item = _decode(r, depth, owed + <size_t>n)
        if set_item(result, key, item) < 0:
            _refuse_key()
    return result


cdef object _get_set(Reader r, object result, int depth, size_t owed):
    """Fill `result`, a set or frozenset with one reference in the world (PySet_Add insists)."""
    cdef Py_ssize_t n = _take_size(r, owed)
    cdef object member
    while n:
        n -= 1
        member = _decode(r, depth, owed + <size_t>n)
        if add_member(result, member) < 0:
            _refuse_key()
    return result


cdef object _get_slice(Reader r, int depth, size_t owed):
    cdef object start = _decode(r, depth, owed + 2)
    cdef object stop = _decode(r, depth, owed + 1)
    cdef object step = _decode(r, depth, owed)
    return PySlice_New(<PyObject *>start, <PyObject *>stop, <PyObject *>step)


cdef object _get_error(Reader r, int depth, size_t owed):
    cdef int i = <unsigned char>_take(r, 1)[0]
    if i >= N_ERRORS:
        _refuse("an unknown exception")
    if <unsigned char>_take(r, 1)[0] != TUPLE:
        _refuse("an exception without its arguments")
    cdef tuple args = _get_tuple(r, depth, owed)
    return PyObject_CallObject(PyTuple_GET_ITEM(ERRORS, i), args)


cdef object _decode(Reader r, int depth, size_t owed):
    cdef unsigned char tag = <unsigned char>_take(r, 1)[0]
    cdef const char *at
    cdef Py_ssize_t n
    if tag == NONE:
        return None
    elif tag == TRUE:
        return True
    elif tag == FALSE:
        return False
    elif tag == INT_1:
        return PyLong_FromLong(<signed char>_take(r, 1)[0])
    elif tag == INT_4:
        return PyLong_FromLong(<int32_t>fm_wire_load_4(_take(r, 4)))
    elif tag == INT_8:
        return PyLong_FromLongLong(<int64_t>fm_wire_load(_take(r, 8)))
    elif tag == INT_N:
        n = _take_size(r, owed)
        return _int_from_bytes(PyBytes_FromStringAndSize(_take(r, n), n), "little", signed=True)
    elif tag == FLOAT:
        return PyFloat_FromDouble(fm_wire_double(fm_wire_load(_take(r, 8))))
    elif tag == COMPLEX:
        at = _take(r, 16)
        return PyComplex_FromDoubles(
            fm_wire_double(fm_wire_load(at)), fm_wire_double(fm_wire_load(at + 8)))
    elif tag == STR:
        n = _take_size(r, owed)
        return _get_str(_take(r, n), n)
    elif tag == BYTES:
        n = _take_size(r, owed)
        return PyBytes_FromStringAndSize(_take(r, n), n)
    elif tag == BYTEARRAY:
        n = _take_size(r, owed)
        return PyByteArray_FromStringAndSize(<char *>_take(r, n), n)
    if depth == DECODE_DEPTH:
        _refuse(f"a value nested more than {DECODE_DEPTH} levels deep")
    depth += 1
    if tag == TUPLE:
        return _get_tuple(r, depth, owed)
    elif tag == LIST:
        return _get_list(r, depth, owed)
    elif tag == DICT:
        return _get_dict(r, depth, owed)
    elif tag == SET:
        return _get_set(r, PySet_New(NULL), depth, owed)
    elif tag == FROZENSET:
        return _get_set(r, PyFrozenSet_New(NULL), depth, owed)
    elif tag == SLICE:
        return _get_slice(r, depth, owed)
    elif tag == ERROR:
        return _get_error(r, depth, owed)
    elif tag == OUTSIDE:
        return _get_outside(r)
    elif tag == PICKLE or tag == BUFFERED:
        return _get_pickle(r, tag, depth, owed)
    _refuse("an unknown tag")


cdef object _get_outside(Reader r):
    if r.buffers is None or r.next_buffer >= len(r.buffers):
        _refuse("a buffer that did not come with the value")
    r.next_buffer += 1
    return r.buffers[r.next_buffer - 1]


cdef object _get_pickle(Reader r, unsigned char tag, int depth, size_t owed):
    cdef Opaque value
    if not r.allow_pickle and not r.carry:
        _refuse("a pickle where none is allowed")
    cdef uint64_t n = fm_wire_load(_take(r, 8))
    cdef size_t left = <size_t>(r.end - r.pos)
    if n > left or owed > left - n:
        _refuse("truncated pickle")
    value = Opaque.__new__(Opaque)
    # A copy: loading runs users' code, which may make a call of its own and so refill the
    # caller's buffer.
    value.data = PyBytes_FromStringAndSize(_take(r, <size_t>n), <Py_ssize_t>n)
    if tag == BUFFERED:
        if <unsigned char>_take(r, 1)[0] != TUPLE:
            _refuse("a pickle without its buffers")
        value.buffers = _get_tuple(r, depth, owed)
        for buffer in value.buffers:
            if not PyBytes_CheckExact(buffer) and not PyByteArray_CheckExact(buffer):
                _refuse("a pickle with buffers that are none")
    if r.carry:
        return value
    return _unpickle(value.data, value.buffers)


@cython.final
@cython.auto_pickle(False)
@cython.freelist(8)
cdef class Reader:
    """A cursor over encoded values."""

    cdef void feed(self, const char *data, size_t n, list buffers, bint allow_pickle) noexcept:
        self.pos = data
        self.end = data + n
        self.buffers = buffers
        self.next_buffer = 0
        self.allow_pickle = allow_pickle
        self.carry = False

    cdef object get(self):
        return _decode(self, 0, 0)

    cdef bint done(self) noexcept:
        return self.pos == self.end


def opaque_values(list values):
    """Return those of `values` that are `Opaque`, all as of one moment."""
    cdef list found = []
    cdef Py_ssize_t i = 0
    cdef object value
    while i < PyList_GET_SIZE(values):
        value = <object>PyList_GET_ITEM(values, i)
        if type(value) is Opaque:
            found.append(value)
        i += 1
    return found


def dumps(value):
    """Encode a value, with pickle where it must be.

    Parameters
    ----------
    value : object
        Anything `multiprocessing` can pickle.

    Returns
    -------
    bytes
        What `loads` reads.
    """
    cdef Writer w = Writer()
    w.put(value)
    return PyBytes_FromStringAndSize(w.data, <Py_ssize_t>w.size)


def dumps_compact(value):
    """Encode a value without pickle.

    Parameters
    ----------
    value : object
        Any object.

    Returns
    -------
    bytes or None
        None if the value needs pickle.
    """
    cdef Writer w = Writer()
    if w.put_compact(value):
        return None
    return PyBytes_FromStringAndSize(w.data, <Py_ssize_t>w.size)


def loads(data, allow_pickle=True):
    """Decode the one value that `data` holds.

    Parameters
    ----------
    data : bytes-like
        What `dumps` wrote.
    allow_pickle : bool, default True
        Whether the value may be a pickle. Loading a pickle runs whatever it names.

    Returns
    -------
    object

    Raises
    ------
    WireError
        If `data` is anything but exactly one value.
    """
    cdef Reader r = Reader()
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        r.feed(<const char *>view.buf, <size_t>view.len, None, allow_pickle)
        value = r.get()
        if not r.done():
            raise WireError("bytes after the value")
        return value
    finally:
        PyBuffer_Release(&view)
