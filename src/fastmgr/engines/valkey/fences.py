"""Fences: what a holder changes that has lost its lock without knowing is refused.

Each grant of a lock has a number, its fence, which is greater than that of any grant before.  In a
block with a lock's fence each request that changes an object carries the number; the object keeps
the greatest number that it has seen of that lock, and refuses a smaller one.
"""

from __future__ import annotations

from functools import lru_cache
from threading import get_ident
from typing import Any

__all__ = ["Fenced", "fence_of", "fence_words", "lock_key"]

#: Objects that are no data: they have owners and waiters, which fences have nothing to do with.
_UNFENCED = (b"Lock-", b"RLock-", b"Condition-", b"Semaphore-", b"Bounded", b"Event-", b"Barrier-")
#: Functions that count references.
_BOOKS = frozenset(
    b"fm1_" + name for name in (b"take", b"drop", b"call", b"name", b"make", b"bury", b"meta")
)
#: Functions that make objects, or go on with what a call has begun.
_AFTER = b"_make", b"_look", b"_expire", b"_settle", b"_withdraw"


@lru_cache(maxsize=1024)
def lock_key(key: bytes) -> bytes:
    """Return the key of the lock behind a lock's or condition's key."""
    return key[: key.index(b"}") + 1]


def fence_of(session: Any, key: bytes) -> int:
    """Return the number of the grant by which this process holds a lock.

    Raises
    ------
    RuntimeError
        The process does not hold it.
    """
    session.life.check(key)
    number: int | None = session.life.fence(key)
    if not number:
        raise RuntimeError("only a lock that is held has a fence")
    return number


class Fenced:
    """A block in which what the thread changes is refused if a later holder has changed it."""

    def __init__(self, session: Any, key: bytes) -> None:
        self.session, self.key = session, key
        self.fence = fence_of(session, key)
        self.before: Any = None

    def __enter__(self) -> int:
        fences = self.session.fences
        self.before = fences.get(get_ident())
        fences[get_ident()] = self.key[1:-1], self.fence
        return self.fence

    def __exit__(self, *exc_info: object) -> None:
        if self.before is None:
            self.session.fences.pop(get_ident(), None)
        else:
            self.session.fences[get_ident()] = self.before


def fence_words(session: Any, words: Any) -> Any:
    """Return the request to be made in place of one that the calling thread makes."""
    mark = session.fences.get(get_ident())
    if mark is None:
        return words
    name, *rest = words
    if name == b"FCALL":
        function, count, *rest = rest
        count = int(count)
        keys, rest = rest[:count], rest[count:]
        if function in _BOOKS or function.endswith(_AFTER):
            return words
    else:
        function, keys, rest = b"", rest[:1], list(words)
    if not keys or type(keys[0]) is not bytes or not keys[0].startswith(session.key_of("")[:-1]):
        return words
    if keys[0].partition(b":")[2].startswith(_UNFENCED):
        return words
    return [b"FCALL", b"fm1_fenced", len(keys), *keys, *mark, function, *rest]
