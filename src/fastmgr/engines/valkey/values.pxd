"""Values to bytes and back, as a Valkey server keeps them."""

# The bytes of an int, of a float (None for a NaN with a payload), and of a str (None where it has
# no UTF-8).
cdef bytes encode_int(object value)
cdef bytes encode_float(double value)
cdef bytes encode_str(object value)
# The bytes of any value; `address` is the server's.
cpdef bytes encode(object value, object address=*)
cpdef object decode(bytes data, object address=*)
# Idents of the objects that an encoded value contains proxies of.
cpdef list references(bytes data)
