"""Objects that a server keeps by name, in memory or in a file that outlives it.

The file (format 2, little-endian) is a header of one line of 64 bytes, ``magic`` and ``end``, and
records up to ``end``: a line that says what it is and how long its three parts are, then the
name, what else is to be known (JSON), and the data, each filled up to a line.  A record is written
whole before ``end`` is moved behind it, so a server that is killed leaves it there or not.  Records
stay where they are for good: clients have mapped them.  One that is forgotten becomes filling.

Format 1 had no rows of counters that grow, and is read as well.

Clients can write anywhere in the file.  It is read once, when the server starts, with every length
checked; from then on the server goes by what it has read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import reprlib
import stat
import struct
import threading
import weakref
from typing import Any

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters, grow
from fastmgr.kinds.values import Value
from fastmgr.memory.arena import Arena
from fastmgr.memory.cells import lie_at, state_size
from fastmgr.memory.segments import Segment

__all__ = ["ArenaFile", "Names"]

FAMILY = b"fmarena"
MAGIC = FAMILY + b"2"
PREDECESSOR = FAMILY + b"1"
#: Of a file that was cut while a server used it.
CUT = b"fmcutoff"
LINE = 64
HEADER = struct.Struct("<8sQ")
#: Kind, and the bytes of the name, of what else is known, and of the data.
RECORD = struct.Struct("<QQQQ")
#: The last is of counters that were added to those of the same name.
FILLING, COUNTER, COUNTERS, VALUE, ARRAY, MORE_COUNTERS = range(6)
KINDS: dict[type, int] = {Counter: COUNTER, Counters: COUNTERS, Value: VALUE, Array: ARRAY}
#: What the file grows by.
EXTENT = 1024 * 1024


#: What servers of this process use.
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
            # By this process, which the lock does not tell: and to close it again would lift it.
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
    PermissionError
        It is another user's, or others can write to it.
    OSError
        It cannot be opened, or the disk is full.
    """

    def __init__(self, path: str, arena: Arena) -> None:
        self.path = path
        self.arena = arena
        self.objects: dict[str, Any] = {}
        #: Where the records of each name are: the segment, and the offset in it.
        self.records: dict[str, list[tuple[Segment, int]]] = {}
        # Closing any descriptor of the file would lift the lock: this one, and those of the
        # segments, stay open as long as the server lives.
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
            # Or it was killed before the first: the magic comes last.
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
        """Have the file on the disk for these bytes, also where it has holes, or not at all.

        A full disk must not show where the memory is used: that would be a signal.
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
        # Where mapping fails the descriptor is kept for the next time: see above.
        if not self.spare:
            self.spare.append(os.dup(self.fd))
        segment = self.arena.add_file(self.spare[0], start, size)
        self.spare.clear()
        self.segments.append(segment)
        return segment

    def _grow(self, size: int) -> None:
        """Go on in a new segment, of so many bytes, at the end of the file.

        Where a step fails nothing has changed but the file, which the next time is as long already.
        """
        self._find_room(self.capacity, size)
        grown = self._map(self.capacity, size)
        rest = self.capacity - self.end
        if rest:
            RECORD.pack_into(
                memoryview(self.segment), self.end - self.segment.offset, FILLING, 0, 0, rest - LINE
            )
        self.segment = grown
        self._commit(self.capacity)
        self.capacity += size

    def check(self) -> None:
        """Look whether somebody has cut the file; from then on whoever asks is told.

        A look at memory that is gone ends a process by a signal.  So clients are sent to the
        server, and for those who looked before the file is made as long as it was.
        """
        if self.is_cut or os.fstat(self.fd).st_size >= self.capacity:
            return
        self.is_cut = True
        for segment in self.segments:
            segment.spoil()
        self.arena.expel()
        with contextlib.suppress(OSError):  # a disk that is full by now
            self._find_room(0, self.capacity)
            struct.pack_into("<8s", memoryview(self.first), 0, CUT)

    def _require_whole(self) -> None:
        self.check()
        if self.is_cut:
            raise OSError(errno.EIO, "the arena was cut while this server used it", self.path)

    def _read(self) -> None:
        data = memoryview(self.segment)
        # All that come to a row at once: it may have grown a thousand times.
        additions: dict[str, list[Counters]] = {}
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
                    self._restore(kind, name, about, data_at, sizes[2], additions)
                    self.records.setdefault(name, []).append((self.segment, at))
                except (
                    ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError,
                ) as error:  # fmt: skip
                    raise self._damaged(f"the record at {at} says nonsense ({error})") from error
            at = parts[-1]
        for name, added in additions.items():
            try:
                grow(self.objects[name], *added)
            except ValueError as error:
                raise self._damaged(f"the records of {name!r} say nonsense ({error})") from error

    def _restore(
        self,
        kind: int,
        name: str,
        about: Any,
        at: int,
        size: int,
        additions: dict[str, list[Counters]],
    ) -> None:
        if kind == COUNTER:
            obj: Any = Counter()
        elif kind in (COUNTERS, MORE_COUNTERS):
            # Counters may be made of more, such as a text; a file says so in no other way.
            if type(about) is not int and not (
                type(about) is list and all(type(key) is str for key in about)
            ):
                raise TypeError(f"counters are not called {reprlib.repr(about)}")
            obj = Counters(about)
        elif kind == VALUE:
            obj = Value(about, None)
            obj.keeper = name
        elif kind == ARRAY:
            obj = Array(about, ())
        else:
            raise ValueError(f"kind {kind}")
        lie_at(obj, self.segment, at, size, False)
        if kind == MORE_COUNTERS:
            if type(self.objects[name]) is not Counters:
                raise TypeError(f"the name {name!r} is no row's that could have grown")
            additions.setdefault(name, []).append(obj)
        elif name in self.objects:
            raise ValueError(f"the name {name!r} occurs twice")
        else:
            self.objects[name] = obj

    def add(self, name: str, obj: Any) -> None:
        """Keep an object under a name that is not in use.

        Raises
        ------
        TypeError
            The file cannot hold that.
        OSError
            The disk is full.
        """
        self._write(KINDS[type(obj)], name, obj)
        self.objects[name] = obj

    def add_counters(self, name: str, part: Counters) -> None:
        """Keep counters that come to those of the same name; the caller joins them."""
        self._write(MORE_COUNTERS, name, part)

    def forget(self, name: str) -> None:
        """Drop a name; what it named stays as long as somebody holds it."""
        self._require_whole()
        # The last first: those that were added are nothing by themselves.
        records = self.records[name]
        while records:
            segment, at = records[-1]
            struct.pack_into("<Q", memoryview(segment), at, FILLING)
            records.pop()
        del self.records[name], self.objects[name]

    def _write(self, kind: int, name: str, obj: Any) -> None:
        """Write a record, and have the object's state in it."""
        about: Any = None
        if kind in (COUNTERS, MORE_COUNTERS):
            if not all(type(key) is str for key in obj.names or ()):
                raise TypeError(f"{name!r}: counters in a file are called by strings, or by index")
            about = len(obj) if obj.names is None else obj.names
        elif kind == VALUE:
            obj.keeper = name
            obj.set(obj.get())  # what a file cannot hold is refused before anything is written
            about = obj._typecode
            if about is not None and not isinstance(about, (str, int)):
                # JSON has no such thing, or makes another of it, by which nobody finds the value.
                raise TypeError(
                    f"{name!r}: the typecode of a value in a file is text; not {about!r}"
                )
        elif kind == ARRAY:
            about = obj.typecode
        size = state_size(obj)
        encoded_name = name.encode()
        encoded_about = json.dumps(about).encode()
        need = LINE + _lines(len(encoded_name)) + _lines(len(encoded_about)) + _lines(size)
        self._require_whole()
        if self.end + need > self.capacity:
            self._grow((need + EXTENT - 1) // EXTENT * EXTENT)
        data = memoryview(self.segment)
        begun = at = self.end - self.segment.offset
        RECORD.pack_into(data, at, kind, len(encoded_name), len(encoded_about), size)
        at += LINE
        for part in (encoded_name, encoded_about):
            data[at : at + len(part)] = part
            at += _lines(len(part))
        lie_at(obj, self.segment, at, size, True)
        self.records.setdefault(name, []).append((self.segment, begun))
        self._commit(self.end + need)

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
        #: Names that have come since the `Finder` looked.
        self.fresh = set(self.objects)
        self.lock = threading.Lock()

    def get(
        self, name: str, kind: type, arguments: tuple[Any, ...], arena: Arena | None = None
    ) -> Any:
        """Return the object of that name; it is made if there is none.

        Rows of counters become longer if more are asked for.  Who asks for some of them, as a
        program does that is older than the last ones, gets all.  Who asks for no items gets what
        is kept.

        Raises
        ------
        TypeError
            The name is no string, or is an object's of another kind or typecode.
        ValueError
            It is that of an array of another length, or of counters of which some are not asked for
            while others are.
        """
        if type(name) is not str:
            raise TypeError(f"name={name!r}: a name is a string")
        wanted: Any = kind(*arguments)
        with self.lock:
            kept: Any = self.objects.get(name)
            if kept is None:
                if self.file is not None:
                    self.file.add(name, wanted)
                else:
                    self.objects[name] = wanted
                self.fresh.add(name)
                return wanted
            same = type(kept) is kind and _typecode(kept) == _typecode(wanted)
            if not same:
                raise TypeError(_refusal(name, kept, wanted))
            if kind in (Counters, Array) and len(wanted) == 0:
                return kept
            if kind is Counters:
                more = _missing(name, kept, wanted)
                if more is not None:
                    if self.file is not None:
                        self.file.add_counters(name, more)
                    grow(kept, more)
                    if arena is not None:
                        arena.note_growth()
            elif kind is Array and len(kept) != len(wanted):
                raise ValueError(_refusal(name, kept, wanted))
            return kept

    def forget(self, name: str) -> bool:
        """Drop a name; what it named goes when nobody holds it any more."""
        with self.lock:
            if name not in self.objects:
                return False
            if self.file is not None:
                self.file.forget(name)
            else:
                del self.objects[name]
            self.fresh.discard(name)
            return True


def _typecode(obj: Any) -> Any:
    if type(obj) is Value:
        return obj._typecode
    return obj.typecode if type(obj) is Array else None


def _missing(name: str, kept: Counters, wanted: Counters) -> Counters | None:
    """The counters that have to be added so that all that are wanted are there."""
    if (kept.names is None) != (wanted.names is None):
        raise ValueError(_refusal(name, kept, wanted))
    if kept.names is None or wanted.names is None:
        return Counters(len(wanted) - len(kept)) if len(wanted) > len(kept) else None
    new = [key for key in wanted.names if key not in kept]
    if new and not all(key in wanted for key in kept.names):
        raise ValueError(_refusal(name, kept, wanted))  # it is another row, or one was renamed
    return Counters({key: wanted[key] for key in new}) if new else None


def _refusal(name: str, kept: Any, wanted: Any) -> str:
    return (
        f"the name {name!r} is in use: {_described(kept)} is kept there, and {_described(wanted)} "
        f"was asked for; manager.forget({name!r}) would drop what is kept"
    )


def _described(obj: Any) -> str:
    if type(obj) is Value:
        return f"Value({obj._typecode!r}, ...)"
    if type(obj) is Array:
        return f"Array({obj.typecode!r}, ...) of {len(obj)} items"
    if type(obj) is Counters:
        return f"Counters({reprlib.repr(len(obj) if obj.names is None else list(obj.names))})"
    return type(obj).__name__
