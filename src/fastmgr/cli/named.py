"""The named objects of a running server, as the commands ls, get and incr see them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from time import perf_counter
from typing import Any, NamedTuple

import fastmgr
from fastmgr.cli import options as common
from fastmgr.cli.health import in_words
from fastmgr.cli.options import Refusal, shown

__all__ = [
    "Named", "add_name", "add_server", "connected", "listed", "no_name", "no_part", "one",
    "part_of", "refusing",
]  # fmt: skip


def add_server(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Add the options that say which server is meant."""
    parser.add_argument(
        "address",
        nargs="?" if optional else None,
        type=common.parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, the path of a Unix socket, @NAME, or a Valkey server's, as valkey://host",
    )
    common.add_key_file(parser)


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the words that say which object is meant, and which part of it."""
    parser.add_argument("name", metavar="NAME", help="the name of the object")
    parser.add_argument(
        "part", metavar="KEY", nargs="?", help="one of its counters, or the index of an item"
    )


def connected(options: argparse.Namespace) -> Any:
    """Return a manager that is connected to the server; `Refusal` where that cannot be."""
    key, _, _ = common.read_key(options.authkey_file)
    with refusing(options.address, key):
        return fastmgr.SyncManager.from_address(options.address, key)


@contextmanager
def refusing(address: Any, key: bytes) -> Iterator[None]:
    """Say in a `Refusal` why a server does not answer what it is asked in the block."""
    start = perf_counter()
    try:
        yield
    except (OSError, EOFError, ValueError, ImportError, AuthenticationError) as error:
        why = in_words(error) or f"no answer within {perf_counter() - start:.3g} s"
        if isinstance(error, AuthenticationError) and not key and "digest" in str(error):
            why = "the server has a key, and none is given: --authkey-file FILE, or see --help"
        raise Refusal(f"{shown(address)}: {why}", 1) from None


class Named(NamedTuple):
    """A named object: what a client has to say to find it."""

    name: str
    typeid: str
    typecode: str | None

    def proxy(self, manager: Any) -> Any:
        """Return a proxy of it; `Refusal` where its type is not one of fastmgr's."""
        name, code = self.name, self.typecode
        if self.typeid == "Counter":
            return manager.Counter(name=name)
        if self.typeid == "Counters":
            return manager.Counters((), name=name)
        if self.typeid == "Value" and code is not None:
            return manager.Value(code, None, name=name)
        if self.typeid == "Array" and code is not None:
            return manager.Array(code, (), name=name)
        raise Refusal(f"{name!r} is a {self.typeid}, which is not read here", 1)

    def value(self, manager: Any) -> Any:
        """Return what it has: a number, an object, a dict of counters or a list of items."""
        return self.read(self.proxy(manager))

    def read(self, proxy: Any) -> Any:
        """Return what it has, by a proxy of it."""
        if self.typeid in ("Counter", "Value"):
            return proxy.value
        if self.typeid == "Array":
            return list(proxy[:])
        return dict(zip(proxy.keys(), proxy.snapshot(), strict=False))


def listed(manager: Any) -> list[Named]:
    """Return the named objects of a server; `Refusal` where it is too old to tell."""
    try:
        return [Named(*about) for about in manager._session.control("described_names")]
    except (fastmgr.RemoteError, ValueError):
        raise Refusal(
            "the server does not tell what has a name: it is no fastmgr server", 1
        ) from None


def one(manager: Any, options: argparse.Namespace) -> Named:
    """Return the object that the options name; `Refusal` where there is none."""
    for found in listed(manager):
        if found.name == options.name:
            return found
    raise no_name(options.name)


def part_of(found: Named, manager: Any, options: argparse.Namespace) -> tuple[Any, ...]:
    """Return the key or index that is meant, as arguments; none for the whole.

    Digits are an index, or a number that is a key, unless a counter has these very digits, a str,
    as its key.
    """
    text = options.part
    if found.typeid in ("Counter", "Value"):
        if text is not None:
            raise Refusal(f"{found.name!r} is a {found.typeid}, which has no parts")
        return ()
    if text is None:
        return ()
    if found.typeid == "Counters" and text in found.proxy(manager):
        return (text,)
    try:
        return (int(text),)
    except ValueError:
        return (text,)


def no_name(name: str) -> Refusal:
    """Return what to raise where no object has that name."""
    return Refusal(f"there is no name {name!r}: 'ls' lists those there are", 1)


def no_part(found: Named, options: argparse.Namespace) -> Refusal:
    """Return what to raise where the object has no such part."""
    return Refusal(f"{found.name!r} has no {options.part!r}", 1)
