# cython: auto_pickle=False
"""Values to bytes and back, as a Valkey server keeps them.

An int of 64 bits is its bare decimal, so that the server can add to it.  Any other value is a tag
byte, and what the tag calls for::

    N T F  None, True, False          I  an int of more bits, in hexadecimal
    f      a float, by `%.17g`        w  what else is plain, as `fastmgr.wire` has it
    s      a str, in UTF-8            p  a pickle
    b      bytes                      R  idents of objects, each with a newline; a newline; a pickle

A value that contains proxies of objects of the same server has the tag R.  Its idents say to which
objects the container of the value holds references.  Such a pickle names no address: whoever reads
it uses the address by which it reached the server.

Equal bytes are equal values, except for NaN.  Values that have other bytes may be equal, too.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from fastmgr.wire.opaque cimport unpickle
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.tags cimport bits_of
from fastmgr.wire.writer cimport Writer

import copyreg
import io
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

from fastmgr.stock.dialect import Token
from fastmgr.wire.opaque import WireError

cdef extern from "Python.h":
    bint PyBytes_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    void *PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)
    object PyLong_FromString(const char *text, char **end, int base)

cdef uint64_t PLAIN_NAN = bits_of(float("nan"))

cdef enum:
    NUMBER_ROOM = 32        # bytes: more than any number's text
    SHORT_INT = 18          # digits, with the sign: such a number fits 64 bits


class _Reading(threading.local):
    address = None      # of the server whose values this thread reads


_reading = _Reading()


def token_here(typeid, ident):
    """Return the token of an object of the server whose values this thread reads."""
    return Token(typeid, _reading.address, ident)


class _Pickler(pickle.Pickler):
    """Notes which objects of the server at `address` a value has tokens of."""

    def __init__(self, file, address):
        super().__init__(file, 5)
        self.dispatch_table = {**copyreg.dispatch_table, **ForkingPickler._extra_reducers}
        self.address = address
        self.idents = []

    def reducer_override(self, obj):
        if type(obj) is not Token or obj.address != self.address:
            return NotImplemented
        if obj.id not in self.idents:
            self.idents.append(obj.id)
        return token_here, (obj.typeid, obj.id)


cdef inline bytes tagged(char tag, const void *data, Py_ssize_t size):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size + 1)
    PyBytes_AS_STRING(made)[0] = tag
    memcpy(PyBytes_AS_STRING(made) + 1, data, <size_t>size)
    return made


cdef bytes encode_int(object value):
    cdef char text[NUMBER_ROOM]
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return b"I%x" % value
    return PyBytes_FromStringAndSize(text, snprintf(text, NUMBER_ROOM, "%lld", number))


cdef bytes encode_float(double value):
    """The bytes of a float; None for a NaN that is another than ``float("nan")``."""
    cdef char text[NUMBER_ROOM]
    if value != value:
        return b"fnan" if bits_of(value) == PLAIN_NAN else None
    return PyBytes_FromStringAndSize(text, snprintf(text, NUMBER_ROOM, "f%.17g", value))


cdef bytes encode_str(object value):
    """The bytes of a str; None where it has no UTF-8."""
    if PyUnicode_IS_COMPACT_ASCII(value):
        return tagged(b"s", PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
    try:
        utf8 = (<str>value).encode()
    except UnicodeEncodeError:
        return None
    return tagged(b"s", PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8))


cpdef bytes encode(object value, object address=None):
    """Encode a value.

    Parameters
    ----------
    value : object
        Anything that `multiprocessing` can pickle.
    address : object, optional
        The server's: a value with proxies of its objects says which objects these are.

    Returns
    -------
    bytes
        What `decode` reads.
    """
    cdef Writer writer
    cdef bytes made
    if PyUnicode_CheckExact(value):
        made = encode_str(value)
        if made is not None:
            return made
    elif PyLong_CheckExact(value):
        return encode_int(value)
    elif PyFloat_CheckExact(value):
        made = encode_float(PyFloat_AS_DOUBLE(value))
        if made is not None:
            return made
    elif value is None:
        return b"N"
    elif value is True:
        return b"T"
    elif value is False:
        return b"F"
    elif PyBytes_CheckExact(value):
        return tagged(b"b", PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    writer = Writer.__new__(Writer)
    if writer.put_compact(value) == 0:
        return tagged(b"w", writer.data, <Py_ssize_t>writer.size)
    file = io.BytesIO()
    pickler = _Pickler(file, address)
    pickler.dump(value)
    if not pickler.idents:
        return b"p" + file.getvalue()
    return b"R" + "".join([f"{ident}\n" for ident in pickler.idents]).encode() + b"\n" + (
        file.getvalue())


cpdef list references(bytes data):
    """Return the idents of the objects that an encoded value contains proxies of."""
    if not data.startswith(b"R"):
        return []
    return data[1:data.index(b"\n\n")].decode().split("\n")


cdef object damaged(bytes data):
    return WireError(f"what the server keeps is no value of ours: {data[:40]!r}")


cdef object decode_int(bytes data):
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(data)
    cdef bint negative = size > 1 and text[0] == c"-"
    cdef long long number = 0
    if size <= SHORT_INT:
        for i in range(<Py_ssize_t>negative, size):
            if not c"0" <= text[i] <= c"9":
                raise damaged(data)
            number = number * 10 + (text[i] - c"0")
        return -number if negative else number
    try:
        return int(data)
    except ValueError:
        raise damaged(data) from None


cdef object read(bytes data, object address):
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef char tag = text[0]     # of no bytes at all: the NUL behind them
    cdef Reader reader
    if tag == c"s":
        return PyUnicode_DecodeUTF8(text + 1, size - 1, NULL)
    if c"0" <= tag <= c"9" or tag == c"-":
        return decode_int(data)
    if tag == c"f":
        return float(data[1:])
    if tag == c"b":
        return PyBytes_FromStringAndSize(text + 1, size - 1)
    if size == 1:
        if tag == c"N":
            return None
        if tag == c"T":
            return True
        if tag == c"F":
            return False
    if tag == c"w":
        reader = Reader.__new__(Reader)
        reader.feed(text + 1, <size_t>(size - 1), None, False)
        value = reader.get()
        if not reader.done():
            raise damaged(data)
        return value
    if tag == c"I":
        return int(data[1:], 16)
    if tag == c"p":
        return unpickle(data[1:], None)
    if tag == c"R":
        return unpickle_here(data[data.index(b"\n\n") + 2:], address)
    raise damaged(data)


cdef object unpickle_here(bytes data, object address):
    # A value's own code may read other values meanwhile, of another server.
    outer = _reading.address
    _reading.address = address
    try:
        return unpickle(data, None)
    finally:
        _reading.address = outer


cpdef object decode(bytes data, object address=None):
    """Return the value that was encoded.

    Parameters
    ----------
    data : bytes
    address : object, optional
        The server's, for the proxies in the value.

    Raises
    ------
    WireError
        The bytes are no value.
    RemoteError
        An object that the value has a proxy of is gone.
    """
    return read(data, address)
