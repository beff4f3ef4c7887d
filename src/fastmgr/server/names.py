"""Objects that a server keeps by name, in memory or in a file that outlives it."""

from __future__ import annotations

import threading
from typing import Any

from fastmgr.kinds.rows import codec_of
from fastmgr.memory.arena import Arena
from fastmgr.server.arenafile import ArenaFile

__all__ = ["Names"]


class Names:
    """The named objects of a server: they live as long as the server, or as a file.

    Parameters
    ----------
    file : ArenaFile, optional
        Keeps the objects.
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
        """Return the object of that name; make it if there is none.

        Rows of counters become longer if a client asks for more.  A client that asks for some of
        the counters, as an older program does, gets all; one that asks for no items gets the object
        that is kept.

        Raises
        ------
        TypeError
            The name is no string, or belongs to an object of another kind or typecode.
        ValueError
            The name belongs to an array of another length, or to counters some of which are not
            asked for, while others are that are not there.
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
