"""Messages: a header and its values, as both halves build them."""

from libc.string cimport memcpy

from fastmgr.link.stream cimport FLAG_BUFFERS, HEADER_SIZE, Header, table_size, write_table
from fastmgr.wire.writer cimport Writer


cdef inline size_t begin_message(Writer writer) except 0:
    """Leave room for a header; where its body starts."""
    writer.grow(HEADER_SIZE)
    writer.size += HEADER_SIZE
    return writer.size


cdef inline void undo_message(Writer writer, size_t start) noexcept:
    """Give back the room that `begin_message` left, with what was written into the body."""
    writer.size = start - HEADER_SIZE


cdef inline int seal(Writer writer, size_t start, Header *header) except -1:
    """Put `header` before the body that began at `start`, and in it what the body needs."""
    cdef size_t beside = 0
    if writer.buffers:
        header.flags |= FLAG_BUFFERS
        beside = writer.size - start
        beside = write_table(
            writer.insert(start, table_size(writer.buffers)), beside, writer.buffers,
            writer.writable,
        )
    header.size = writer.size - start + beside
    memcpy(writer.data + start - HEADER_SIZE, header, HEADER_SIZE)
    return 0
