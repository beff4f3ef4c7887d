"""A `Stream` as the server's loop uses it: Python's own methods know neither chunks nor headers."""

from fastmgr.link.stream cimport FRAME_READY, HEADER_SIZE, Stream


def speak_fast(Stream stream):
    """Change to the fast dialect's framing, as the loop does after an introduction."""
    stream.fast = True


def receive_now(Stream stream):
    """Read what has arrived; False where there was nothing."""
    return stream.receive_now() == FRAME_READY


def take(Stream stream, bint again):
    """Cut a frame off: its status; in the fast framing its header; its body and buffers.

    With `again` it is put back and taken anew, as when a connection is handed to a worker.
    """
    cdef int status = stream.take()
    if again and status == FRAME_READY:
        stream.untake()
        status = stream.take()
    if status != FRAME_READY:
        return status, b"", b"", ()
    header = (<const char *>&stream.header)[:HEADER_SIZE] if stream.fast else b""
    return status, header, stream.body[:stream.size], tuple(stream.buffers or ())


def tidy(Stream stream):
    """Give a large buffer back, as the loop does between frames."""
    stream.drop_buffers()
