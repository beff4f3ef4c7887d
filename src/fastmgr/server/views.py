"""The dicts of a stock server, as views of the table: servers of users read and write them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from fastmgr.server.calls import show
from fastmgr.server.table import Entry, Table, key_of

__all__ = ["Counts", "LocalObjects", "Objects"]


class Objects(MutableMapping[str, tuple[Any, Any, Any]]):
    """``Server.id_to_obj``: ident to (object, exposed, method_to_typeid), over the table.

    Servers of users read it, and some write it in a ``create`` of their own.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    @staticmethod
    def _as_tuple(entry: Entry) -> tuple[Any, Any, Any]:
        show(entry)  # the caller may keep the object, and change it unseen
        return entry.obj, entry.exposed, entry.method_to_typeid

    def __getitem__(self, ident: str) -> tuple[Any, Any, Any]:
        if ident == "0":
            return None, (), None  # the stdlib's entry for "no object"
        return self._as_tuple(self._table.entries[key_of(ident)])

    def __setitem__(self, ident: str, value: tuple[Any, Any, Any]) -> None:
        self._table.place(ident, *value)

    def __contains__(self, ident: object) -> bool:
        return ident == "0" or key_of(ident) in self._table.entries

    def __delitem__(self, ident: str) -> None:
        self._table.remove(ident)

    def __iter__(self) -> Iterator[str]:
        yield "0"
        yield from [entry.ident for entry in list(self._table.entries.values())]

    def __len__(self) -> int:
        return len(self._table.entries) + 1


class Counts(MutableMapping[str, int]):
    """``Server.id_to_refcount``: ident to references counted, over the table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def _entry(self, ident: str) -> Entry:
        entry = self._table.entries[key_of(ident)]
        if entry.refcount < 0:
            raise KeyError(ident)
        return entry

    def __getitem__(self, ident: str) -> int:
        return self._entry(ident).refcount

    def __setitem__(self, ident: str, count: int) -> None:
        self._table.lookup(ident).refcount = count

    def __delitem__(self, ident: str) -> None:
        # Counted no more; the object goes with a second step, from id_to_obj.
        self._entry(ident).refcount = -1

    def __iter__(self) -> Iterator[str]:
        entries = list(self._table.entries.values())
        return iter([entry.ident for entry in entries if entry.refcount >= 0])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class LocalObjects(Objects):
    """``Server.id_to_local_proxy_obj``: what proxies inside the server hold."""

    def __getitem__(self, ident: str) -> tuple[Any, Any, Any]:
        entry = self._table.lookup(ident)
        if entry.key not in self._table.local:
            raise KeyError(ident)
        return self._as_tuple(entry)

    def __contains__(self, ident: object) -> bool:
        return key_of(ident) in self._table.local

    def __setitem__(self, ident: str, value: tuple[Any, Any, Any]) -> None:
        self._table.stash(ident)

    def __delitem__(self, ident: str) -> None:
        del self._table.local[key_of(ident)]

    def __iter__(self) -> Iterator[str]:
        return iter([entry.ident for entry in list(self._table.local.values())])

    def __len__(self) -> int:
        return len(self._table.local)
