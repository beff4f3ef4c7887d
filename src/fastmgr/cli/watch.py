"""Print a line whenever what a named object has changes, with how fast a number grows.

It looks once in an interval: of changes between two looks it sees the sum. What is there at first
is the first line of each object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from time import monotonic, sleep
from typing import Any, NamedTuple

import fastmgr
from fastmgr.cli import named, options as common
from fastmgr.cli.named import Named
from fastmgr.cli.units import one_line

INTERVAL = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    parser.add_argument("name", metavar="NAME", nargs="+", help="the name of an object")
    parser.add_argument(
        "--interval",
        type=common.seconds,
        metavar="SECONDS",
        default=INTERVAL,
        help="how long from one look to the next (default: %(default)g)",
    )
    parser.add_argument("--count", type=_count, metavar="N", help="end after N lines")
    parser.add_argument("--json", action="store_true", help="an object of JSON on each line")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of lines above 0 is needed")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Print lines until there are enough of them, or the user ends it."""
    manager = named.connected(options)
    with named.refusing(options.address, manager._authkey):
        watched = [
            (found, found.proxy(manager))
            for found in (named.one(manager, name) for name in options.name)
        ]
    before: dict[Named, Look] = {}
    lines = 0
    while True:
        for found, proxy in watched:
            with named.refusing(options.address, manager._authkey):
                look = Look(found, proxy)
            for change in look.changes(before.get(found)):
                print(change.as_json() if options.json else change.as_text(), flush=True)
                lines += 1
                if lines == options.count:
                    return 0
            before[found] = look
        sleep(options.interval)


class Change(NamedTuple):
    """What a line says: which object, or which part of it, has what, and how fast that grows."""

    name: str
    key: Any  # of a counter of a row; None for the whole
    value: Any
    per_second: float | None  # None where it is no number, or at first
    when: datetime

    def as_json(self) -> str:
        """Return it as an object of JSON."""
        plain = self._asdict() | {"when": self.when.isoformat(timespec="milliseconds")}
        return json.dumps(plain, default=repr)

    def as_text(self) -> str:
        """Return it as a line for people."""
        name = self.name if self.key is None else f"{self.name} {self.key}"
        rate = "" if self.per_second is None else f"  {self.per_second:+,.6g}/s"
        return one_line(f"{self.when:%H:%M:%S}  {name}  {self.value}{rate}")


class Look:
    """What an object has at one moment."""

    def __init__(self, found: Named, proxy: Any) -> None:
        value = found.read(proxy)
        if isinstance(value, fastmgr.BaseProxy):  # each look gets another proxy, so compare texts
            value = str(value)
        self.name = found.name
        self.values = value if found.typeid == "Counters" else {None: value}
        self.moment = monotonic()
        self.when = datetime.now().astimezone()

    def changes(self, before: Look | None) -> Iterator[Change]:
        """Yield what has changed since the look before; all where there was none."""
        for key, value in self.values.items():
            rate = None
            if before is not None and key in before.values:
                old = before.values[key]
                if old == value:
                    continue
                if isinstance(value, (int, float)) and isinstance(old, (int, float)):
                    rate = (value - old) / (self.moment - before.moment)
            yield Change(self.name, key, value, rate, self.when)
