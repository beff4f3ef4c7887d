"""Objects that a server keeps by name, in memory or in a file that outlives it.

The file (format 1, little-endian) is a header of one line of 64 bytes, ``magic`` and ``end``, and
records up to ``end``: a line that says what it is and how long its three parts are, then the
name, what else is to be known (JSON), and the data, each filled up to a line.  A record is written
whole before ``end`` is moved behind it, so a server that is killed leaves it there or not.  Records
stay where they are for good: clients have mapped them.

Clients can write anywhere in the file.  It is read once, when the server starts, with every length
checked; from then on the server goes by what it has read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import threading
import weakref
from typing import Any

from fastmgr._arena import Arena, Segment, lie_at, state_size
from fastmgr._numbers import Array, Counter, Counters, Value

__all__ = ["ArenaFile", "Names"]

MAGIC = b"fmarena1"
LINE = 64
HEADER = struct.Struct("<8sQ")
#: Kind, and the bytes of the name, of what else is known, and of the data.
RECORD = struct.Struct("<QQQQ")
FILLING, COUNTER, COUNTERS, VALUE, ARRAY = range(5)
KINDS: dict[type, int] = {Counter: COUNTER, Counters: COUNTERS, Value: VALUE, Array: ARRAY}
#: What the file grows by.
EXTENT = 1024 * 1024


#: What servers of this process use.
_in_use: set[tuple[int, int]] = set()


def _give_up(fd: int, identity: tuple[int, int]) -> None:
    _in_use.discard(identity)
    os.close(fd)


def _lines(size: int) -> int:
    return (size + LINE - 1) // LINE * LINE


class ArenaFile:
    """Named objects whose state lies in a file.

    Parameters
    ----------
    path : str
        The file; it is made if there is none.
    arena : Arena
        Has it mapped, for clients too.

    Raises
    ------
    BlockingIOError
        Another server has the file.
    ValueError
        It is not such a file, or it is damaged.
    OSError
        It cannot be opened, or the disk is full.
    """

    def __init__(self, path: str, arena: Arena) -> None:
        self.path = path
        self.arena = arena
        self.objects: dict[str, Any] = {}
        # Closing any descriptor of the file would lift the lock: this one, and those of the
        # segments, stay open as long as the server lives.
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            self._open()
        except BaseException:
            os.close(self.fd)
            raise
        identity = self._identity()
        _in_use.add(identity)
        #: Lets another server have the file; what is mapped stays mapped.
        self.close = weakref.finalize(self, _give_up, self.fd, identity)

    def _identity(self) -> tuple[int, int]:
        about = os.fstat(self.fd)
        return about.st_dev, about.st_ino

    def _lock(self) -> None:
        try:
            if self._identity() in _in_use:  # by this process, which the lock does not tell
                raise BlockingIOError(errno.EAGAIN, "")
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(
                error.errno, "another server keeps its objects in this arena", self.path
            ) from None

    def _open(self) -> None:
        self.capacity = os.fstat(self.fd).st_size
        magic, self.end = HEADER.unpack(os.pread(self.fd, HEADER.size, 0).ljust(HEADER.size, b"\0"))
        if magic.strip(b"\0") and magic != MAGIC:
            raise self._damaged("its first bytes are others")
        if magic == MAGIC and (self.end % LINE or not LINE <= self.end <= self.capacity):
            raise self._damaged(f"its records end at {self.end}, it has {self.capacity} bytes")
        # A server that was killed may have left half an extent at the end, without records.
        if self.capacity == 0 or self.capacity % EXTENT:
            self._lengthen(EXTENT - self.capacity % EXTENT)
        self.segment = self.arena.add_file(self.fd, 0, self.capacity)
        if magic == MAGIC:
            self._read()
        else:
            # Or it was killed before the first: the magic comes last.
            self.end = LINE
            struct.pack_into("<Q", memoryview(self.segment), 8, self.end)
            struct.pack_into("<8s", memoryview(self.segment), 0, MAGIC)
        #: The segment that begins the file: its header says how far the records go.
        self.first = self.segment

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path!r} is no arena of fastmgr's, or it is damaged: {what}")

    def _lengthen(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            # Room on the disk is found now, or not at all: a full disk must not show in a client.
            os.posix_fallocate(self.fd, self.capacity, size)
        else:
            os.ftruncate(self.fd, self.capacity + size)
        self.capacity += size

    def _grow(self, size: int) -> Segment:
        """Map so many bytes more at the end of the file."""
        self._lengthen(size)
        return self.arena.add_file(self.fd, self.capacity - size, size)

    def _read(self) -> None:
        data = memoryview(self.segment)
        at = LINE
        while at < self.end:
            kind, *sizes = RECORD.unpack_from(data, at)
            parts = [at + LINE]
            for size in sizes:
                parts.append(parts[-1] + _lines(size))
            if parts[-1] > self.end:
                raise self._damaged(f"the record at {at} does not end in it")
            if kind != FILLING:
                name_at, about_at, data_at, _next = parts
                try:
                    name = str(data[name_at : name_at + sizes[0]], "utf-8")
                    about = json.loads(bytes(data[about_at : about_at + sizes[1]]))
                    self.objects[name] = self._restore(kind, name, about, data_at, sizes[2])
                except (
                    ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError,
                ) as error:  # fmt: skip
                    raise self._damaged(f"the record at {at} says nonsense ({error})") from error
            at = parts[-1]

    def _restore(self, kind: int, name: str, about: Any, at: int, size: int) -> Any:
        if kind == COUNTER:
            obj: Any = Counter()
        elif kind == COUNTERS:
            obj = Counters(about)
        elif kind == VALUE:
            obj = Value(about, None)
            obj.keeper = name
        elif kind == ARRAY:
            obj = Array(about, ())
        else:
            raise ValueError(f"kind {kind}")
        lie_at(obj, self.segment, at, size, False)
        return obj

    def add(self, name: str, obj: Any) -> None:
        """Keep an object under a name that is not in use.

        Raises
        ------
        TypeError
            The file cannot hold that.
        OSError
            The disk is full.
        """
        kind = KINDS[type(obj)]
        if kind == COUNTERS and not all(type(key) is str for key in obj.names or ()):
            raise TypeError(f"{name!r}: counters in a file are called by strings, or by index")
        if kind == VALUE:
            obj.keeper = name
            obj.set(obj.get())  # what a file cannot hold is refused before anything is written
        about: Any = None
        if kind == COUNTERS:
            about = len(obj) if obj.names is None else obj.names
        elif kind == VALUE:
            about = obj._typecode
        elif kind == ARRAY:
            about = obj.typecode
        size = state_size(obj)
        encoded_name = name.encode()
        encoded_about = json.dumps(about).encode()
        need = LINE + _lines(len(encoded_name)) + _lines(len(encoded_about)) + _lines(size)
        if self.end + need > self.capacity:
            rest = self.capacity - self.end
            begun = self.capacity
            grown = self._grow((need + EXTENT - 1) // EXTENT * EXTENT)
            if rest:
                RECORD.pack_into(
                    memoryview(self.segment), self.end - self.segment.offset,
                    FILLING, 0, 0, rest - LINE,
                )  # fmt: skip
            self.segment = grown
            self._commit(begun)
        data = memoryview(self.segment)
        at = self.end - self.segment.offset
        RECORD.pack_into(data, at, kind, len(encoded_name), len(encoded_about), size)
        at += LINE
        for part in (encoded_name, encoded_about):
            data[at : at + len(part)] = part
            at += _lines(len(part))
        lie_at(obj, self.segment, at, size, True)
        self._commit(self.end + need)
        self.objects[name] = obj

    def _commit(self, end: int) -> None:
        struct.pack_into("<Q", memoryview(self.first), 8, end)
        self.end = end


class Names:
    """What a server keeps by name: as long as it lives, or as a file does.

    Parameters
    ----------
    file : ArenaFile, optional
        Where it is kept.
    """

    def __init__(self, file: ArenaFile | None = None) -> None:
        self.file = file
        self.objects: dict[str, Any] = {} if file is None else file.objects
        self.lock = threading.Lock()

    def get(self, name: str, kind: type, arguments: tuple[Any, ...]) -> Any:
        """Return the object of that name; it is made if there is none.

        Raises
        ------
        TypeError
            The name is no string, or is an object's of another kind.
        """
        if type(name) is not str:
            raise TypeError(f"name={name!r}: a name is a string")
        with self.lock:
            obj = self.objects.get(name)
            if obj is None:
                obj = kind(*arguments)
                if self.file is not None:
                    self.file.add(name, obj)
                else:
                    self.objects[name] = obj
        if type(obj) is not kind:
            raise TypeError(
                f"the name {name!r} is in use by a {type(obj).__name__}, not a {kind.__name__}"
            )
        return obj
