"""Shared memory that goes when its manager does."""

from __future__ import annotations

import os
from multiprocessing import shared_memory, util
from typing import TYPE_CHECKING, Any

from fastmgr.server.server import Server

if TYPE_CHECKING:
    from multiprocessing.managers import SharedMemoryServer as _StockServer
else:
    _StockServer = object

__all__ = ["SharedMemoryServer"]


class _SharedMemoryTracker:
    """The names of the segments that a server has to unlink."""

    __module__ = "fastmgr.managers"

    def __init__(self, name: str, segment_names: list[str] | None = None) -> None:
        self.shared_memory_context_name = name
        self.segment_names = [] if segment_names is None else segment_names
        self._pid = os.getpid()

    def register_segment(self, segment_name: str) -> None:
        """Take charge of a segment."""
        util.debug("Register segment %r in pid %d", segment_name, os.getpid())
        self.segment_names.append(segment_name)

    def destroy_segment(self, segment_name: str) -> None:
        """Unlink a segment and forget it."""
        util.debug("Destroy segment %r in pid %d", segment_name, os.getpid())
        self.segment_names.remove(segment_name)
        segment = shared_memory.SharedMemory(segment_name)
        segment.close()
        segment.unlink()

    def unlink(self) -> None:
        """Unlink all segments."""
        for segment_name in self.segment_names[:]:
            self.destroy_segment(segment_name)

    def __del__(self) -> None:
        if os.getpid() == self._pid:  # the segments of a fork are its parent's
            self.unlink()

    def __getstate__(self) -> tuple[str, list[str]]:
        return self.shared_memory_context_name, self.segment_names

    def __setstate__(self, state: tuple[str, list[str]]) -> None:
        self.shared_memory_context_name, self.segment_names = state
        self._pid = os.getpid()


class SharedMemoryServer(Server, _StockServer):
    """A server that unlinks the segments it was told of when it shuts down.

    Its parameters are those of `Server`.
    """

    __module__ = "fastmgr.managers"

    public = [  # noqa: RUF012
        *Server.public, "track_segment", "release_segment", "list_segments",
    ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        address = self.address
        if isinstance(address, bytes):  # an abstract socket's
            address = os.fsdecode(address)
        self.shared_memory_context = _SharedMemoryTracker(f"shm_{address}_{os.getpid()}")

    def shutdown(self, c: Any) -> None:
        """Unlink all segments, then shut down."""
        self.shared_memory_context.unlink()
        super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Take charge of a segment."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Unlink a segment."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c: Any) -> list[str]:
        """Return the names of the segments in this server's charge."""
        return self.shared_memory_context.segment_names
