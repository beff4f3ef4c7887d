# cython: auto_pickle=False
"""Requests in the fast dialect, as a client encodes them; nothing is sent here."""

from fastmgr.client.references cimport Holding
from fastmgr.link.message cimport begin_message, seal
from fastmgr.link.stream cimport (
    FLAG_CARRIED, FLAG_PICKLED, HEADER_SIZE, OP_CALL, OP_RELEASE, Header,
)
from fastmgr.link.system cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr.wire.writer cimport Writer, is_scalar

from fastmgr.wire.methods import METHODS

cdef dict METHOD_NUMBERS = {name: number for number, name in enumerate(METHODS, 1)}

# By what `Writer.put_args` says of a request's values.
cdef uint8_t[4] PICKLED_FLAGS = [0, FLAG_PICKLED | FLAG_CARRIED, FLAG_PICKLED, FLAG_PICKLED]


cdef size_t begin_request(Writer writer, uint32_t *calls, list due) except 0:
    """Put the releases that are due, then room for a header; where its body starts."""
    cdef uint64_t pair[2]
    cdef size_t start
    writer.reset()
    start = begin_message(writer)
    if due:
        for holding, count in due:
            pair[0] = (<Holding>holding).handle
            pair[1] = count
            writer.write(pair, sizeof(pair))
        end_request(writer, start, calls, OP_RELEASE, 0, 0, 0)
        start = begin_message(writer)
    return start


cdef int put_call(
    Writer writer, size_t start, uint32_t *calls, uint8_t op, uint8_t flags, uint64_t handle,
    object name, object args, object kwds
) except -1:
    """Encode a call, for which there is room for a header before `start`."""
    cdef object number = METHOD_NUMBERS.get(name) if op == OP_CALL else None
    cdef int pickled
    if number is None:
        writer.put(name)
    if type(args) is not tuple:
        args = tuple(args)
    if not kwds:
        pickled = writer.put_args(args)
        writer.put(None)
    elif all_scalars(kwds):
        pickled = writer.put_args(args)
        if writer.put(kwds):
            pickled = 2     # a string that is no UTF-8
    else:
        # Together: they may share objects. True says so.
        pickled = 2 * writer.put((args, kwds))
        writer.put(True)
    return end_request(
        writer, start, calls, op, flags | PICKLED_FLAGS[pickled],
        0 if number is None else <uint16_t>number, handle,
    )


cdef int end_request(
    Writer writer, size_t start, uint32_t *calls, uint8_t op, uint8_t flags, uint16_t method,
    uint64_t handle
) except -1:
    """Fill in the header before `start` for the body that begins there."""
    cdef Header header
    calls[0] += 1
    header.handle = handle
    header.call = calls[0]
    header.method = method
    header.op = op
    header.flags = flags
    return seal(writer, start, &header)


cdef bint all_scalars(kwds) except -1:
    for value in kwds.values():
        if not is_scalar(value):
            return False
    return type(kwds) is dict


cdef bint is_whole(Writer frames, size_t size) noexcept:
    """Whether the first `size` bytes are whole frames."""
    cdef size_t end = 0
    while end < size:
        end += HEADER_SIZE + <size_t>(<Header *>(frames.data + end)).size
    return end == size
