"""How a proxy of a named object finds it again in a server that was restarted.

The handle of a named object is made of its type's id and its name, so it is the same in every
server.  A server that meets such a handle for the first time looks whether it keeps the object.
"""

from __future__ import annotations

import hashlib
import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

from fastmgr.kinds.rows import NAMED_BY

if TYPE_CHECKING:
    from fastmgr.server.names import Names

__all__ = ["NAMED", "Finder", "named_handle"]

#: The bit that only handles of named objects have.
NAMED = 1 << 62


def named_handle(typeid: str, name: str) -> int:
    """Return the handle of a named object, which is positive as a signed integer of 64 bits.

    Parameters
    ----------
    typeid : str
        The id of the type with which the object was made: it decides what is exposed.
    name : str
    """
    spelled = f"{typeid}\0{name}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(spelled, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2 | NAMED


class Finder:
    """Which of a server's named objects a handle means."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[str, str, type]] = {}
        self._lock = threading.Lock()

    def find(
        self, handle: object, names: Names, registry: dict[str, Any]
    ) -> tuple[str, Any] | None:
        """Return the type's id and the object; None if the handle means none of `names`."""
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
