"""How a proxy of a named object finds it again in a server that was restarted.

The handle of such an object is made of its type's id and its name, so it is the same in every
server.  One that does not know a handle of that kind looks whether it keeps the object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from fastmgr import _numbers, shared

if TYPE_CHECKING:
    from fastmgr.names import Names

__all__ = ["NAMED", "Finder", "named_handle"]

#: The bit that only handles of named objects have.
NAMED = 1 << 62

#: What each function makes that takes a name.
MAKERS: dict[Callable[..., Any], type] = {
    shared.make_counter: _numbers.Counter,
    shared.make_counters: _numbers.Counters,
    shared.make_value: _numbers.Value,
    shared.make_array: _numbers.Array,
}


def named_handle(typeid: str, name: str) -> int:
    """Return the handle of the object of that name; as a signed integer of 64 bits it is positive.

    Parameters
    ----------
    typeid : str
        The type's id with which it was made: it decides what is exposed.
    name : str
    """
    spelled = f"{typeid}\0{name}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(spelled, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2 | NAMED


class Finder:
    """Which of a server's named objects a handle means."""

    def __init__(self) -> None:
        self._version = 0
        self._found: dict[int, tuple[str, str, type]] = {}

    def find(
        self, handle: object, names: Names, registry: dict[str, Any]
    ) -> tuple[str, Any] | None:
        """Return the type's id and the object; None if the handle means none of `names`."""
        if not isinstance(handle, int) or not handle & NAMED:
            return None
        return self._look(handle, names.objects) or (
            self._look(handle, names.objects) if self._learn(names, registry) else None
        )

    def _look(self, handle: int, objects: dict[str, Any]) -> tuple[str, Any] | None:
        typeid, name, kind = self._found.get(handle, ("", "", None))
        obj = objects.get(name)
        return (typeid, obj) if type(obj) is kind else None

    def _learn(self, names: Names, registry: dict[str, Any]) -> bool:
        """Compute the handles anew if there is anything else than before."""
        if names.version == self._version:
            return False
        self._version = names.version  # before a look at them: more may come meanwhile
        kinds = {name: type(obj) for name, obj in list(names.objects.items())}
        self._found = {
            named_handle(typeid, name): (typeid, name, kind)
            for typeid, (maker, *_) in registry.items()
            if isinstance(maker, FunctionType) and maker in MAKERS
            for name, kind in kinds.items()
            if kind is MAKERS[maker]
        }
        return True
