"""Keys of dicts and members of sets to the fields that stand for them in the server, and back."""

# The field of a key.
cpdef bytes encode_key(object key)
# The field of a key, and the encoded key itself where the field does not tell it, or b"".
cpdef tuple encode_both(object key, object address=*)
cpdef object decode_key(bytes field, bytes original=*, object address=*)
