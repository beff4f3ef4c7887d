"""Bytes to values (`tags.pxd` describes the encoding).

Nothing that the bytes say is believed: a size is checked against the bytes that are left before
anything is made. `owed` is the number of elements that the enclosing containers still wait for,
each of a byte at least. Without it containers that each claim all that is left could have the
reader allocate the input's length times its depth.
"""

cimport cython
from cpython cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyBytes_CheckExact, PyBytes_FromStringAndSize,
    PyComplex_FromDoubles, PyErr_Clear, PyErr_ExceptionMatches, PyFloat_FromDouble, PyList_New,
    PyList_SET_ITEM, PyLong_FromLong, PyLong_FromLongLong, PyObject, PyObject_GetBuffer,
    PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM, PyUnicode_DecodeUTF8, Py_INCREF,
)
from cpython.bytearray cimport PyByteArray_CheckExact, PyByteArray_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

from fastmgr.wire.opaque cimport Opaque, unpickle
from fastmgr.wire.tags cimport *

from fastmgr.wire.opaque import WireError
from fastmgr.wire.writer import ERRORS

cdef extern from "Python.h":
    # Without a check for errors: the callers do that.
    int set_item "PyDict_SetItem" (object mapping, object key, object value) noexcept
    int add_member "PySet_Add" (object members, object member) noexcept
    object PySet_New(PyObject *members)
    object PyFrozenSet_New(PyObject *members)
    object PySlice_New(PyObject *start, PyObject *stop, PyObject *step)
    object PyObject_CallObject(PyObject *function, object args)

cdef enum:
    DECODE_DEPTH = 64           # a later version may nest deeper than this one writes

cdef tuple _errors = ERRORS
cdef int N_ERRORS = len(ERRORS)
cdef object _int_from_bytes = int.from_bytes


cdef int _refuse(str why) except -1:
    raise WireError(why)


cdef int _refuse_key() except -1:
    """Pass on the error that a key or a member raised; one without a hash makes a bad value."""
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


cdef inline Py_ssize_t _bounded(Reader r, uint64_t n, size_t owed) except -1:
    cdef size_t left = <size_t>(r.end - r.pos)
    if n > left or owed > left - n:
        _refuse("a size beyond the end of the value")
    return <Py_ssize_t>n


cdef inline Py_ssize_t _take_size(Reader r, size_t owed) except -1:
    cdef uint64_t n = <unsigned char>_take(r, 1)[0]
    return _bounded(r, load(_take(r, 8)) if n == 255 else n, owed)


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
    """Fill `result`, a set or a frozenset that nobody else has (PySet_Add insists on that)."""
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
    return PyObject_CallObject(PyTuple_GET_ITEM(_errors, i), args)


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
        return PyLong_FromLong(load_4(_take(r, 4)))
    elif tag == INT_8:
        return PyLong_FromLongLong(<int64_t>load(_take(r, 8)))
    elif tag == INT_N:
        n = _take_size(r, owed)
        return _int_from_bytes(PyBytes_FromStringAndSize(_take(r, n), n), "little", signed=True)
    elif tag == FLOAT:
        return PyFloat_FromDouble(double_of(_take(r, 8)))
    elif tag == COMPLEX:
        at = _take(r, 16)
        return PyComplex_FromDoubles(double_of(at), double_of(at + 8))
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
    cdef Opaque value = Opaque.__new__(Opaque)
    if not r.allow_pickle and not r.carry:
        _refuse("a pickle where none is allowed")
    cdef Py_ssize_t n = _bounded(r, load(_take(r, 8)), owed)
    # A copy: unpickling runs users' code, which may make a call and so refill the caller's buffer.
    value.data = PyBytes_FromStringAndSize(_take(r, <size_t>n), n)
    if tag == BUFFERED:
        if <unsigned char>_take(r, 1)[0] != TUPLE:
            _refuse("a pickle without its buffers")
        value.buffers = _get_tuple(r, depth, owed)
        for buffer in value.buffers:
            if not PyBytes_CheckExact(buffer) and not PyByteArray_CheckExact(buffer):
                _refuse("a pickle with buffers that are none")
    return value if r.carry else unpickle(value.data, value.buffers)


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


def loads(data, allow_pickle=True):
    """Decode the one value that `data` holds; `WireError` where that is anything else.

    Where pickles are allowed, reading one runs whatever code it names.
    """
    cdef Reader r = Reader.__new__(Reader)
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
