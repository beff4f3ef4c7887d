"""Series in a row of counters: floats that processes share, each found by a text that is its key.

The row is one named object of a server, `Counters` that are called by index.  It begins with a
word that says what it is, and one that no other row has.  Records follow without gaps: the words
that `WORDS` names, then the key's bytes.

A process claims room for a record by one step, which writes the record's first word, behind the
last that there is; it marks the record as done when it has written all of it.  So a process that
is killed meanwhile leaves a record that nobody uses, and whose size is known.  No record is ever
removed: where a series is, it stays, for all processes and, with an arena's file, for all servers.

Whoever has the server's key can write to the row.  What is no record is passed over: the next one
begins with a header whose two sizes agree.  All processes find the same, for the words of a key
are text, and no other word of a record looks like a header.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import fastmgr
from fastmgr.client.floats import is_mapped, live_sessions, party_of

__all__ = ["WORDS", "Series", "float_of", "word_of"]

#: What the words of a record hold, in order: its size and whether it is done; the float; when that
#: began or was set; which session has the record (0: all have it); the process of that session.
WORDS = HEADER, VALUE, TIME, OWNER, PID = range(5)
KEY = len(WORDS)

#: What the row's first word has, and where the records begin.
FORMAT = int.from_bytes(b"series 1", "little")
FIRST = 8
#: The words that a row has at first; then it becomes twice as long each time.
LEAST = 4096

DONE = 1 << 62
#: Seconds to wait for another process that is about to write a key, before it counts as dead.
PATIENCE = 0.05
#: Seconds that a server which does not answer may hold up a caller, and then is left alone.
LIMIT, PAUSE = 2.0, 1.0

#: What is raised where the server cannot be reached, or has no room.
AWAY = (OSError, EOFError, MemoryError, AssertionError, fastmgr.RemoteError)

log = logging.getLogger("fastmgr.contrib.prometheus")


def word_of(value: float) -> int:
    """Return the word, a signed integer, that has the bits of a float."""
    word: int = struct.unpack("q", struct.pack("d", value))[0]
    return word


def float_of(word: int) -> float:
    """Return the float whose bits a word has."""
    value: float = struct.unpack("d", struct.pack("q", word))[0]
    return value


def size_of(header: int, room: int) -> int:
    """Return the words of a record that has this header; 0 where it is no header of a record."""
    size, length = header & 0xFFFFFFFF, (header & ~DONE) >> 32
    return size if length > 0 and size == KEY + -(-length // 8) <= room else 0


class Series:
    """The series that a server keeps under a name, as one process knows them.

    Parameters
    ----------
    address : address
        The server's.
    authkey : bytes, optional
        As a manager's.
    name : str
        The row's.
    """

    def __init__(self, address: Any, authkey: bytes | None, name: str) -> None:
        self.address, self.authkey, self.name = address, authkey, name
        #: Of the row that was last met: another one has another.
        self.row_id = 0
        #: What was logged.
        self.told: set[tuple[object, ...]] = set()
        self.forget()
        self.begin_process()

    def begin_process(self) -> None:
        """Begin anew in this process; of the parent's only what is found is kept."""
        self.lock = threading.RLock()
        #: What was met in this process is equal to this object.
        self.process = object()
        self.row: Any = None
        self.mapped = False
        self.retry_at = 0.0

    def forget(self) -> None:
        """Forget what was found: it is another row."""
        #: Where each key is, and the key of each record, in the order of the records.
        self.places: dict[bytes, int] = {}
        self.records: dict[int, bytes] = {}
        #: Records that were claimed and are not done.
        self.unfinished: list[int] = []
        self.end = FIRST

    # -- the server ---------------------------------------------------------------------

    def reach(self) -> bool:
        """Have the row at hand; False while the server is away, without asking it each time.

        Raises
        ------
        AuthenticationError, TypeError, ValueError
            It will never be: another key is needed, or the name is another object's.
        """
        if self.row is not None and (not self.mapped or is_mapped(self.row)):
            return True
        if time.monotonic() < self.retry_at:
            return False
        try:
            self.attach()
        except AWAY:
            self.lose()
            raise
        return True

    def lose(self) -> None:
        """Leave a server that does not answer alone for a while."""
        self.row = None
        self.retry_at = time.monotonic() + PAUSE

    def attach(self) -> None:
        """Ask the server for the row, and look which one it is."""
        with fastmgr.timeout(LIMIT):
            manager = fastmgr.SyncManager.from_address(self.address, self.authkey)
            row: Any = manager.Counters(LEAST, name=self.name)
            row.compare_exchange(0, 0, FORMAT)
            row.compare_exchange(1, 0, int.from_bytes(os.urandom(7), "little") | 1)
            if row[0] != FORMAT:
                raise ValueError(f"{self.name!r} is another row of counters: give another name")
            row_id = row[1]
        self.manager, self.row, self.mapped = manager, row, is_mapped(row)
        if row_id != self.row_id:
            self.row_id = row_id
            self.forget()

    # -- records ------------------------------------------------------------------------

    def place(self, key: bytes, initial: float = 0.0, began: float = 0.0) -> int:
        """Return where a series is; claim room for it where there is none.

        It then has `initial` as its float, and `began` as its time.
        """
        found = self.places.get(key)
        while found is None:
            self.look(self.row, PATIENCE)
            found = self.places.get(key)
            if found is None:
                found = self.claim(key, initial, began)
        return found

    def claim(self, key: bytes, initial: float, began: float) -> int | None:
        """Add a record behind the last that is known; None where that is to be tried again."""
        row, at = self.row, self.end
        size = KEY + -(-len(key) // 8)
        if at + size >= len(row):
            self.manager.Counters(2 * (len(row) + size), name=self.name)
            return None
        if any(row[i] for i in range(at + 1, at + size)):
            if not row[at]:  # a header is written first: nobody has begun a record meanwhile
                self.pass_over(at)
            return None
        header = size | len(key) << 32
        if not row.compare_exchange(at, 0, header):
            return None
        for i, word in enumerate(struct.unpack(f"{size - KEY}q", key.ljust(8 * (size - KEY)))):
            row[at + KEY + i] = word
        row[at + VALUE], row[at + TIME] = word_of(initial), word_of(began)
        row[at + HEADER] = header | DONE
        self.note(at, key)
        self.end = at + size
        return at

    def note(self, at: int, key: bytes) -> None:
        self.places.setdefault(key, at)
        self.records[at] = key

    def look(self, words: Sequence[int], patience: float = 0.0) -> None:
        """Take in what was added since, in the row itself or a copy of its words.

        It waits for all records together that are not done, `patience` seconds at most.
        """
        for at in self.unfinished.copy():
            if self.take(words, at):
                self.unfinished.remove(at)
        until = 0.0
        while self.end < len(words) and (words[self.end] or self.is_wiped(words)):
            at, size = self.end, size_of(words[self.end], len(words) - self.end)
            if not size:
                self.pass_over(at)
                continue
            while not (done := self.take(words, at)):
                until = until or time.monotonic() + patience
                if time.monotonic() >= until:
                    break
                time.sleep(0.001)
            if not done:
                self.unfinished.append(at)
            self.end = at + size

    def take(self, words: Sequence[int], at: int) -> bool:
        """Take one record in; False where it is not done."""
        header = words[at]
        if not header & DONE:
            return False
        if size := size_of(header, len(words) - at):
            count = size - KEY
            key = struct.pack(f"{count}q", *(words[at + KEY + i] for i in range(count)))
            self.note(at, key[: (header & ~DONE) >> 32])
        return True

    def is_wiped(self, words: Sequence[int]) -> bool:
        """Return whether a copy of the row shows that the next record has lost its header."""
        return isinstance(words, list) and any(words[self.end + 1 :]) and not self.row[self.end]

    def pass_over(self, at: int) -> None:
        """Go on behind something that is no record: at the next one, or behind all words."""
        words = self.row.snapshot()
        self.tell(
            "the row %r has something else than series at word %d (%d), which another program has "
            "written: it is passed over", self.name, at, words[at],
        )  # fmt: skip
        rest = range(at + 1, len(words))
        records = (i for i in rest if size_of(words[i], len(words) - i))
        behind_all = max((i for i in rest if words[i]), default=at) + 1
        self.end = next(records, behind_all)

    def tell(self, what: str, *about: object) -> None:
        """Log what is wrong, once in a process."""
        if (what, *about) not in self.told:
            self.told.add((what, *about))
            log.warning(what, *about)

    # -- whose a record is ----------------------------------------------------------------

    def here(self) -> tuple[bytes, int]:
        """Return which server it is, and the number of this process's session there."""
        return party_of(self.row) or (b"", os.getpid())

    def sessions(self) -> set[int] | None:
        """Return the numbers of the sessions of living processes; None where nobody can tell."""
        return live_sessions(self.row)

    def party(self) -> int:
        """Return the word that stands for this process's session, as long as the server lives."""
        instance, number = self.here()
        return zlib.crc32(instance) >> 1 << 32 | number & 0xFFFFFFFF

    def living(self, owners: Iterable[int]) -> set[int]:
        """Return those of the owners whose process lives, as far as the server knows.

        Where its memory is not mapped here, all count that the server has had.
        """
        sessions, server = self.sessions(), self.party() >> 32
        return {
            owner
            for owner in owners
            if owner >> 32 == server and (sessions is None or owner & 0xFFFFFFFF in sessions)
        }
