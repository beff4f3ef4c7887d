"""Named objects whose state lies in a file that outlives the server.

The file is read once, when the server starts; from then on the server goes by what it has read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import weakref
from typing import Any

from fastmgr.kinds.rows import BY_NUMBER, codec_of
from fastmgr.memory.arena import Arena, lie_at, state_size
from fastmgr.memory.segments import Segment
from fastmgr.server.records import (
    CUT,
    FAMILY,
    FILLING,
    HEADER,
    LINE,
    MAGIC,
    NONSENSE,
    PREDECESSOR,
    Draft,
    Record,
    nonsense,
    read,
    write_filling,
)

__all__ = ["ArenaFile"]

#: The file grows by a multiple of this many bytes.
EXTENT = 1024 * 1024

#: The files that servers of this process use.
_in_use: set[tuple[int, int]] = set()


def _give_up(fd: int, identity: tuple[int, int]) -> None:
    _in_use.discard(identity)
    os.close(fd)


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino


def _open(path: str) -> int:
    """Open the file, if it is this user's alone."""
    try:
        if _identity(os.lstat(path)) in _in_use:
            # The lock does not keep this process out, and to close the file again would lift it.
            raise _taken(errno.EAGAIN, path)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise OSError(
                error.errno, "an arena is not opened through a symbolic link: name the file", path
            ) from None
        raise
    about = os.fstat(fd)
    wrong = None
    if not stat.S_ISREG(about.st_mode):
        wrong = "an arena is a regular file"
    elif about.st_uid != os.geteuid():
        wrong = f"the arena belongs to user {about.st_uid}, this process to {os.geteuid()}"
    elif about.st_mode & 0o022:
        wrong = (
            f"others can write to the arena (mode {stat.S_IMODE(about.st_mode):03o}): "
            "take that from them, chmod go-w"
        )
    if wrong is not None:
        os.close(fd)
        raise PermissionError(errno.EPERM, wrong, path)
    return fd


def _taken(number: int | None, path: str) -> BlockingIOError:
    return BlockingIOError(number, "another server keeps its objects in this arena", path)


class ArenaFile:
    """Named objects whose state lies in a file, which is made if there is none.

    The arena maps the file, and tells clients where it is.  `Server.use_arena` says what is raised
    where that cannot be.
    """

    def __init__(self, path: str, arena: Arena) -> None:
        self.path = path
        self.arena = arena
        self.objects: dict[str, Any] = {}
        #: Where the records of each name are: the segment, and the offset in it.
        self.records: dict[str, list[tuple[Segment, int]]] = {}
        # Closing any descriptor of the file would lift the lock: this descriptor and those of the
        # segments stay open as long as the server lives.
        self.fd = _open(path)
        self.segments: list[Segment] = []
        self.spare: list[int] = []
        self.is_cut = False
        try:
            self._lock()
            self._begin()
        except BaseException:
            for fd in (self.fd, *self.spare):
                os.close(fd)
            raise
        identity = _identity(os.fstat(self.fd))
        _in_use.add(identity)
        #: Lets another server have the file; what is mapped stays mapped.
        self.close = weakref.finalize(self, _give_up, self.fd, identity)

    def _lock(self) -> None:
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _taken(error.errno, self.path) from None

    def _begin(self) -> None:
        size = os.fstat(self.fd).st_size
        magic, self.end = HEADER.unpack(os.pread(self.fd, HEADER.size, 0).ljust(HEADER.size, b"\0"))
        if magic == CUT:
            raise self._damaged("it was cut while a server used it")
        known = magic in (MAGIC, PREDECESSOR)
        if not known and magic.startswith(FAMILY):
            raise ValueError(
                f"{self.path!r} is an arena of format {magic[len(FAMILY) :].decode('latin-1')!r}, "
                "which another version of fastmgr has written; this one reads '1' and '2'"
            )
        if not known and not self._is_blank(magic):
            raise self._damaged("its first bytes are others")
        if known and (self.end % LINE or not LINE <= self.end <= size):
            raise self._damaged(f"its records end at {self.end}, it has {size} bytes")
        # A server that was killed may have left half an extent at the end, without records.
        self.capacity = max(size + -size % EXTENT, EXTENT)
        self._find_room(0, self.capacity)
        #: The segment that begins the file: its header says how far the records go.
        self.first = self.segment = self._map(0, self.capacity)
        if known:
            self._read()
        else:
            # The file is new, or a server was killed before it wrote the magic, which comes last.
            self._commit(LINE)
        struct.pack_into("<8s", memoryview(self.first), 0, MAGIC)

    def _is_blank(self, magic: bytes) -> bool:
        """Whether nobody has written to the file but a server that was killed before the magic."""
        if magic.strip(b"\0") or self.end not in (0, LINE):
            return False
        at = HEADER.size
        while part := os.pread(self.fd, EXTENT, at):
            if part != bytes(len(part)):
                return False
            at += len(part)
        return True

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path!r} is no arena of fastmgr's, or it is damaged: {what}")

    def _find_room(self, start: int, size: int) -> None:
        """Reserve room on the disk for these bytes of the file, or raise OSError.

        Otherwise a full disk would show when the memory is used, by a signal that ends the process.
        """
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.fd, start, size)
                return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(
                    error.errno, f"no room for the arena's {start + size} bytes "
                    f"({os.strerror(error.errno or 0)})", self.path
                ) from None  # fmt: skip
        if os.fstat(self.fd).st_size < start + size:
            os.ftruncate(self.fd, start + size)

    def _map(self, start: int, size: int) -> Segment:
        # Where mapping fails the descriptor is kept for the next time: closing it lifts the lock.
        if not self.spare:
            self.spare.append(os.dup(self.fd))
        segment = self.arena.add_file(self.spare[0], start, size)
        self.spare.clear()
        self.segments.append(segment)
        return segment

    def _grow(self, size: int) -> None:
        """Go on in a new segment of `size` bytes at the end of the file.

        Where a step fails nothing has changed, but the file may have its new length already.
        """
        self._find_room(self.capacity, size)
        grown = self._map(self.capacity, size)
        rest = self.capacity - self.end
        if rest:
            write_filling(memoryview(self.segment), self.end - self.segment.offset, rest)
        self.segment = grown
        self._commit(self.capacity)
        self.capacity += size

    def check(self) -> None:
        """Look whether somebody has cut the file; if so the server answers with errors from now on.

        A process that touches memory which is gone is ended by a signal.  So clients have to ask
        the server again, and for those that have looked before the file is made as long as it was.
        """
        if self.is_cut or os.fstat(self.fd).st_size >= self.capacity:
            return
        self.is_cut = True
        for segment in self.segments:
            segment.spoil()
        self.arena.expel()
        with contextlib.suppress(OSError):  # the disk may be full by now
            self._find_room(0, self.capacity)
            struct.pack_into("<8s", memoryview(self.first), 0, CUT)

    def _require_whole(self) -> None:
        self.check()
        if self.is_cut:
            raise OSError(errno.EIO, "the arena was cut while this server used it", self.path)

    def _read(self) -> None:
        # An object may have grown a thousand times: all its additions are made at once.
        additions: dict[str, list[Any]] = {}
        try:
            for record in read(memoryview(self.segment), self.end):
                try:
                    self._restore(record, additions)
                except NONSENSE as error:
                    raise nonsense(record.at, error) from error
                self.records.setdefault(record.name, []).append((self.segment, record.at))
            for name, added in additions.items():
                try:
                    kept = self.objects[name]
                    codec_of(type(kept)).grow(kept, *added)
                except ValueError as error:
                    raise ValueError(f"the records of {name!r} say nonsense ({error})") from error
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _restore(self, record: Record, additions: dict[str, list[Any]]) -> None:
        """Make the object of a record."""
        row, name = BY_NUMBER.get(record.number), record.name
        if row is None or row.codec is None:
            raise ValueError(f"kind {record.number}")
        obj = row.codec.restore(record.about, name)
        lie_at(obj, self.segment, record.data_at, record.size, False)
        if record.number == row.codec.added:
            if type(self.objects[name]) is not row.types[0]:
                raise TypeError(f"the name {name!r} is no row's that could have grown")
            additions.setdefault(name, []).append(obj)
        elif name in self.objects:
            raise ValueError(f"the name {name!r} occurs twice")
        else:
            self.objects[name] = obj

    def add(self, name: str, obj: Any) -> None:
        """Keep an object under a name that is not in use."""
        self._write(codec_of(type(obj)).number, name, obj)
        self.objects[name] = obj

    def add_part(self, name: str, part: Any) -> None:
        """Keep what is added to the object of the same name; the caller joins the two."""
        number = codec_of(type(part)).added
        assert number is not None
        self._write(number, name, part)

    def forget(self, name: str) -> None:
        """Drop a name; its object stays as long as somebody holds it."""
        self._require_whole()
        # The last record goes first: one that was added means nothing by itself.
        records = self.records[name]
        while records:
            segment, at = records[-1]
            struct.pack_into("<Q", memoryview(segment), at, FILLING)
            records.pop()
        del self.records[name], self.objects[name]

    def _write(self, number: int, name: str, obj: Any) -> None:
        """Write a record, and move the object's state into it."""
        about = codec_of(type(obj)).about(obj, name)
        size = state_size(obj)
        draft = Draft(number, name, about, size)
        self._require_whole()
        if self.end + draft.end > self.capacity:
            self._grow((draft.end + EXTENT - 1) // EXTENT * EXTENT)
        begun = self.end - self.segment.offset
        draft.write(memoryview(self.segment), begun)
        lie_at(obj, self.segment, begun + draft.data_at, size, True)
        self.records.setdefault(name, []).append((self.segment, begun))
        self._commit(self.end + draft.end)

    def _commit(self, end: int) -> None:
        struct.pack_into("<Q", memoryview(self.first), 8, end)
        self.end = end
