"""The named objects of a running server, as the commands ls, get, incr and watch see them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError, process
from time import perf_counter
from typing import Any, NamedTuple

import fastmgr
from fastmgr.cli import options as common
from fastmgr.cli.health import in_words
from fastmgr.cli.options import Refusal, said, shown
from fastmgr.contrib.series import FORMAT, Series

__all__ = [
    "Metrics", "Named", "Unreadable", "add_name", "add_server", "connected", "introduce", "listed",
    "no_part", "one", "part_of", "refusing",
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
    key = introduce(options)
    with refusing(options.address, key):
        return fastmgr.SyncManager.from_address(options.address, key)


def introduce(options: argparse.Namespace) -> bytes:
    """Return the server's key, and have this process be one that a server's reports can tell.

    It has the command's name there; and the key by which proxies reach their server that are in
    what is read.
    """
    key, _, _ = common.read_key(options.authkey_file)
    this = process.current_process()
    this.name, this.authkey = f"fastmgr {options.command}", key
    return key


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


class Unreadable(Refusal):
    """What an object has cannot be unpickled here, say."""


class Metrics:
    """What a row of counters has that holds the metrics of prometheus-client."""

    def __init__(self, words: list[int]) -> None:
        series = Series(None, b"", "")
        series.look(words)
        self.count = len(series.records)

    def __repr__(self) -> str:
        return f"<metrics: {self.count} series>"


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
        where = " on such a server" if self.typeid in ("Value", "Array") else ""
        raise Refusal(f"{name!r} is a {self.typeid}, which this command cannot read{where}", 1)

    def value(self, manager: Any) -> Any:
        """Return what it has: a number, an object, a dict of counters, a list of items, `Metrics`.

        `Unreadable` where that is an object which is none here.
        """
        return self.read(self.proxy(manager))

    def read(self, proxy: Any) -> Any:
        """Return what it has, by a proxy of it."""
        if self.typeid == "Value":
            try:
                return proxy.value
            except (OSError, EOFError, AuthenticationError):
                raise
            except Exception as error:  # of the code by which a program's object is unpickled
                raise Unreadable(
                    f"{self.name!r} has an object that cannot be read here: {said(error)}", 1
                ) from None
        if self.typeid == "Counter":
            return proxy.value
        if self.typeid == "Array":
            return list(proxy[:])
        words = proxy.snapshot()
        if words and words[0] == FORMAT:
            return Metrics(words)
        return dict(zip(proxy.keys(), words, strict=False))


def listed(manager: Any) -> list[Named]:
    """Return the named objects of a server; `Refusal` where it is too old to tell."""
    try:
        return [Named(*about) for about in manager._session.control("described_names")]
    except (fastmgr.RemoteError, ValueError):
        raise Refusal(
            "the server does not tell what has a name: it is the standard library's, or an older "
            "one of fastmgr",
            1,
        ) from None


def one(manager: Any, name: str) -> Named:
    """Return the object of a name; `Refusal` where there is none, or it has metrics."""
    for found in listed(manager):
        if found.name == name:
            if found.typeid == "Counters":
                value = found.value(manager)
                if isinstance(value, Metrics):
                    raise Refusal(
                        f"{name!r} has metrics of prometheus-client ({value.count} series), and a "
                        "scrape shows them: fastmgr serve --metrics",
                        1,
                    )
            return found
    raise Refusal(f"there is no name {name!r}: 'fastmgr ls' lists those there are", 1)


def part_of(found: Named, whole: Any, options: argparse.Namespace) -> tuple[Any, ...]:
    """Return the key or index that is meant, as arguments; none for the whole.

    `whole` is what may have parts. Digits are an index, or a number that is a key, unless these
    very digits, a str, are a key.
    """
    text = options.part
    if text is None:
        return ()
    if not hasattr(whole, "__getitem__") or isinstance(whole, (str, bytes)):
        what = "" if found.typeid == "Counter" or whole is None else f" ({type(whole).__name__})"
        raise Refusal(f"{found.name!r} is a {found.typeid}{what}, which has no parts")
    if hasattr(whole, "keys") and text in whole:
        return (text,)
    try:
        return (int(text),)
    except ValueError:
        return (text,)


def no_part(found: Named, options: argparse.Namespace) -> Refusal:
    """Return what to raise where the object has no such part."""
    return Refusal(f"{found.name!r} has no {options.part!r}", 1)
