"""How values are encoded, as `writer` and `reader` have it.

A value is a tag byte and the bytes that the tag calls for. Numbers are little-endian. A *size* is
one byte below 255, or 255 and eight bytes. ::

    PICKLE  8-byte length, a pickle       BUFFERED  as PICKLE, then a TUPLE of its buffers
    OUTSIDE                               INT_1, INT_4, INT_8  1, 4, 8 bytes
    NONE, TRUE, FALSE                     INT_N                size, two's complement
    FLOAT   8 bytes                       STR, BYTES, BYTEARRAY  size, bytes (STR in UTF-8)
    COMPLEX 16 bytes                      TUPLE, LIST          size, elements
    SLICE   3 values                      SET, FROZENSET       size, members
    ERROR   1 byte (of ERRORS), a TUPLE   DICT                 size, pairs

Only exact built-in types are compact: a subclass means more than its base, and pickle knows what.
A value is pickled as a whole, so that an object which it holds twice is one object for the peer,
too; for the same reason a value that holds a mutable object twice is pickled. A pickle within a
container is one that came to a server as such, and that the server hands back unread (`Opaque`).

Large buffers may stay out of band (OUTSIDE: the next of those that come with the values). They are
sent from where they lie and received where they are to stay, so that neither side copies them.
"""

from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "fastmgr's wire is little-endian; this machine is not"
    #endif
    """

cdef enum Tag:
    PICKLE, NONE, TRUE, FALSE, INT_1, INT_4, INT_8, INT_N, FLOAT, COMPLEX, STR, BYTES,
    BYTEARRAY, TUPLE, LIST, DICT, SET, FROZENSET, SLICE, ERROR, BUFFERED, OUTSIDE

cdef enum:
    LARGE = 1 << 16     # bytes; above it even an immutable is worth not writing twice


cdef inline void store(char *to, uint64_t v) noexcept:
    memcpy(to, &v, 8)


cdef inline uint64_t load(const char *at) noexcept:
    cdef uint64_t v
    memcpy(&v, at, 8)
    return v


cdef inline int32_t load_4(const char *at) noexcept:
    cdef int32_t v
    memcpy(&v, at, 4)
    return v


cdef inline uint64_t bits_of(double d) noexcept:
    return load(<const char *>&d)


cdef inline double double_of(const char *at) noexcept:
    cdef double d
    memcpy(&d, at, 8)
    return d
