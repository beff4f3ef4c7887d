# cython: auto_pickle=False
"""Keys of dicts and members of sets to the fields that stand for them in the server, and back.

Equal keys have equal fields, unequal keys unequal fields: 1, 1.0 and True have the field ``1``.  So
the server finds a key by its field.  A field is spelled as `values` spells a value; a tuple has the
tag t and a frozenset the tag z, and after it each member's field behind the field's length.

A field of which `key_of` makes the very key is *exact*.  Beside any other field the server keeps
the key as it was first given.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.tuple cimport PyTuple_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact

from fastmgr.engines.valkey.values cimport (
    decode, encode, encode_float, encode_int, encode_str,
)

import datetime
import enum
import math
import numbers
import sys
import types
from fractions import Fraction

cdef extern from "Python.h":
    bint PyFrozenSet_CheckExact(object o)

cdef object BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType)
cdef tuple PLAIN = (str, int, float, complex, bytes, tuple, frozenset)


cdef bytes field_of(object key, bint *exact):
    """The field of a key; `exact` stays true if the field is exact."""
    cdef bytes field
    if PyUnicode_CheckExact(key):
        field = encode_str(key)
        if field is None:
            field = b"u" + (<str>key).encode("utf-8", "surrogatepass")
        return field
    if PyLong_CheckExact(key):
        return encode_int(key)
    if key is None:
        return b"N"
    if PyBytes_CheckExact(key):
        return b"b" + <bytes>key
    if PyTuple_CheckExact(key):
        return b"t" + b"".join([of_member(member, exact) for member in key])
    if PyFrozenSet_CheckExact(key):
        return b"z" + b"".join(sorted([of_member(member, exact) for member in key]))
    if PyFloat_CheckExact(key) and not (<double>key).is_integer():
        return encode_float(PyFloat_AS_DOUBLE(key)) if key == key else b"fnan"
    exact[0] = False
    return of_inexact(key)


cdef bytes of_member(object member, bint *exact):
    cdef bytes field = field_of(member, exact)
    return b"%d:%b" % (len(field), field)


cdef bytes of_plain(object key):
    cdef bint exact = True
    return field_of(key, &exact)


cdef bytes of_inexact(object key):
    """The field of a key that is no plain one, or whose equal of another type has the field."""
    kind = type(key)
    if kind is bool or kind is float:
        return encode_int(int(key))
    if kind is complex:
        return of_complex(key)
    hash(key)       # raises what a dict would raise
    if isinstance(key, enum.Enum) and kind.__eq__ is object.__eq__:
        return f"e{kind.__module__}:{kind.__qualname__}.{key.name}".encode()
    if isinstance(key, BY_NAME):
        return f"g{key.__module__}:{key.__qualname__}".encode()
    for plain in PLAIN:
        if isinstance(key, plain) and has_equality_of(kind, plain):
            return of_plain(as_plain(key, plain))
    if isinstance(key, numbers.Number):
        field = of_number(key)
        if field is not None:
            return field
    field = of_library_type(key, kind)
    if field is not None:
        return field
    why = (
        "a copy of it is equal to nothing" if kind.__eq__ is object.__eq__ else
        "its class has an __eq__ of its own, which no Valkey server can call"
    )
    raise TypeError(
        f"{kind.__qualname__!r} object cannot be a key on Valkey: {why}; use a str, a number or a "
        "tuple of these, or a fastmgr server")


cdef bint has_equality_of(object kind, object plain) except -1:
    return kind.__eq__ is plain.__eq__ and kind.__hash__ is plain.__hash__


cdef object as_plain(object key, object plain):
    """The plain key that an instance of a subclass is equal to."""
    if plain is tuple or plain is frozenset:
        return plain(plain.__iter__(key))
    if plain is bytes:
        return bytes.__getitem__(key, slice(None))
    if plain is complex:
        return complex(key.real, key.imag)
    return {str: str.__str__, int: int.__int__, float: float.__float__}[plain](key)


cdef bytes of_complex(object key):
    if key.imag == 0:
        return of_plain(key.real)
    return b"c%.17g,%.17g" % (key.real + 0.0, key.imag)     # + 0.0: of -0.0 makes 0.0


cdef bytes of_number(object key):
    """The field of another kind of number; None where its class equals what it likes."""
    if isinstance(key, numbers.Integral):
        plain = int(key)
    elif isinstance(key, numbers.Rational) or type(key).__name__ == "Decimal":
        if key != key or key in (math.inf, -math.inf):
            plain = float(key)
        else:
            plain = Fraction(key)
            if plain.denominator == 1:
                plain = plain.numerator
            else:
                try:
                    near = float(plain)
                except OverflowError:
                    near = math.inf
                if near != plain:
                    return f"q{plain.numerator:x}/{plain.denominator:x}".encode()
                plain = near
    elif isinstance(key, numbers.Real):
        plain = float(key)
    else:
        plain = complex(key)
    if key != key or (plain == key and hash(plain) == hash(key)):
        return of_plain(plain)
    return None


cdef bytes of_library_type(object key, object kind):
    """The field of a value of a well-known type; None for any other."""
    if kind is datetime.datetime:
        if key.utcoffset() is not None:
            return b"A" + (key - key.utcoffset()).replace(tzinfo=None).isoformat().encode()
        return b"M" + key.isoformat().encode()
    if kind is datetime.date:
        return b"D" + key.isoformat().encode()
    if kind is datetime.time and key.utcoffset() is None:
        return b"H" + key.isoformat().encode()
    if kind is datetime.timedelta:
        return f"E{key.days},{key.seconds},{key.microseconds}".encode()
    if kind is getattr(sys.modules.get("uuid"), "UUID", None):
        return b"U" + key.hex.encode()
    posix = getattr(sys.modules.get("pathlib"), "PurePosixPath", None)
    if posix is not None and isinstance(key, posix):
        return b"P" + str(key).encode("utf-8", "surrogatepass")
    if kind is type(Ellipsis) or kind is type(NotImplemented):
        return f"g{key!r}".encode()
    return None


cpdef bytes encode_key(object key):
    """Return the field of a key.

    Raises
    ------
    TypeError
        It is not hashable, or the server cannot tell to which keys it is equal.
    """
    cdef bint exact = True
    return field_of(key, &exact)


cpdef tuple encode_both(object key, object address=None):
    """Return the field of a key, and, where the field is not exact, the encoded key; else b""."""
    cdef bint exact = True
    cdef bytes field = field_of(key, &exact)
    return field, b"" if exact else encode(key, address)


cdef list members_of(bytes field):
    cdef list members = []
    cdef Py_ssize_t at = 1, colon, end
    while at < len(field):
        colon = field.index(b":", at)
        end = colon + 1 + int(field[at:colon])
        members.append(decode_key(field[colon + 1:end]))
        at = end
    return members


cpdef object decode_key(bytes field, bytes original=None, object address=None):
    """Return the key that has a field; `original` is the encoded key, if the server keeps it."""
    cdef char tag = PyBytes_AS_STRING(field)[0]
    if original:
        return decode(original, address)
    if tag == c"t":
        return tuple(members_of(field))
    if tag == c"z":
        return frozenset(members_of(field))
    if tag == c"u":
        return field[1:].decode("utf-8", "surrogatepass")
    return decode(field, address)
