"""Objects that a server keeps by name, in memory or in a file that outlives it.

The handle of a named object is made of its type's id and its name, so it is the same in every
server.  A server that meets such a handle for the first time looks whether it keeps the object.
"""

from __future__ import annotations

import hashlib
import threading
from types import FunctionType
from typing import Any

from fastmgr.kinds.rows import NAMED, NAMED_BY, codec_of
from fastmgr.memory.arena import Arena
from fastmgr.server.arenafile import ArenaFile

__all__ = ["Finder", "Names", "named_handle"]


class Names:
    """The named objects of a server: they live as long as the server, or as the file, if any."""

    def __init__(self, file: ArenaFile | None = None) -> None:
        self.file = file
        self.objects: dict[str, Any] = {} if file is None else file.objects
        #: Names that have come since the `Finder` looked.
        self.fresh = set(self.objects)
        self.lock = threading.Lock()

    def get(
        self, name: str, kind: type, arguments: tuple[Any, ...], arena: Arena | None = None
    ) -> Any:
        """Return the object of that name; make it if there is none.

        Rows of counters become longer if a client asks for more.  A client that asks for some of
        the counters, as an older program does, gets all; one that asks for no items gets the object
        that is kept.

        Raises
        ------
        TypeError
            The name is no string, or belongs to an object of another kind or typecode.
        ValueError
            What is kept has other items: neither all that are asked for, nor among them.
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
            if type(kept) is not kind:
                raise TypeError(_refusal(name, kept, wanted))
            codec = codec_of(kind)
            try:
                part = codec.join(kept, wanted)
            except (TypeError, ValueError) as error:
                raise type(error)(_refusal(name, kept, wanted)) from None
            if part is not None:
                if self.file is not None:
                    self.file.add_part(name, part)
                codec.grow(kept, part)
                if arena is not None:
                    arena.note_growth()
            return kept

    def forget(self, name: str) -> bool:
        """Drop a name; its object goes when nobody holds it any more."""
        with self.lock:
            if name not in self.objects:
                return False
            if self.file is not None:
                self.file.forget(name)
            else:
                del self.objects[name]
            self.fresh.discard(name)
            return True


def _refusal(name: str, kept: Any, wanted: Any) -> str:
    here, asked = (codec_of(type(obj)).described(obj) for obj in (kept, wanted))
    return (
        f"the name {name!r} is in use: {here} is kept there, and {asked} was asked for; "
        f"manager.forget({name!r}) would drop what is kept"
    )


def named_handle(typeid: str, name: str) -> int:
    """Return the handle of a named object, which is positive as a signed integer of 64 bits.

    The type's id is a part of it, for that decides what is exposed of the object.
    """
    spelled = f"{typeid}\0{name}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(spelled, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2 | NAMED


class Finder:
    """Finds which of a server's named objects a handle means."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[str, str, type]] = {}
        self._lock = threading.Lock()

    def find(
        self, handle: object, names: Names, registry: dict[str, Any]
    ) -> tuple[str, Any] | None:
        """Return the type's id and the object; None if the handle is none of these names'."""
        if not isinstance(handle, int) or not handle & NAMED:
            return None
        found = self._look(handle, names.objects)
        if found is None:
            with self._lock:
                self._learn(names, registry)
            found = self._look(handle, names.objects)
        return found

    def _look(self, handle: int, objects: dict[str, Any]) -> tuple[str, Any] | None:
        typeid, name, kind = self._found.get(handle, ("", "", None))
        obj = objects.get(name)
        return (typeid, obj) if type(obj) is kind else None

    def _learn(self, names: Names, registry: dict[str, Any]) -> None:
        """Compute the handles of the names that are new."""
        if not names.fresh:
            return
        if len(self._found) > 64 + 4 * len(names.objects):  # most of these names have gone
            self._found = {}
            names.fresh.update(list(names.objects))
        makers = [
            (typeid, NAMED_BY[maker])
            for typeid, (maker, *_) in registry.items()
            if isinstance(maker, FunctionType) and maker in NAMED_BY
        ]
        while names.fresh:
            try:
                name = names.fresh.pop()
            except KeyError:  # another thread has just forgotten the name
                break
            obj = names.objects.get(name)
            for typeid, kind in makers:
                if type(obj) is kind:
                    self._found[named_handle(typeid, name)] = (typeid, name, kind)
