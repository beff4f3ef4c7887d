"""Messages: a header and its values, as both halves build them."""

from libc.string cimport memcpy

from fastmgr.link.stream cimport BufferTable, FLAG_BUFFERS, HEADER_SIZE, Header, write_table
from fastmgr.wire.writer cimport Writer


cdef inline size_t begin_message(Writer writer) except 0:
    """Leave room for a header; return where its body starts."""
    writer.grow(HEADER_SIZE)
    writer.size += HEADER_SIZE
    return writer.size


cdef inline void undo_message(Writer writer, size_t start) noexcept:
    """Forget the body that began at `start`, and give back the room for its header."""
    writer.size = start - HEADER_SIZE


cdef inline int seal(Writer writer, size_t start, Header *header) except -1:
    """Put `header` before the body that began at `start`, and a table of its large buffers."""
    cdef size_t values = writer.size - start, beside = 0
    if writer.buffers:
        header.flags |= FLAG_BUFFERS
        beside = write_table(
            writer.insert(start, sizeof(BufferTable) + 8 * <size_t>len(writer.buffers)), values,
            writer.buffers, writer.writable)
    header.size = writer.size - start + beside
    memcpy(writer.data + start - HEADER_SIZE, header, HEADER_SIZE)
    return 0
