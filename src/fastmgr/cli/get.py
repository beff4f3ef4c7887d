"""Print what a named object has: a number, or a line for each of its counters or items.

An object in a Value is printed as Python writes it, but a text as it is. With KEY a counter of a
row, or an item of an Array, or of the dict or list in a Value. In a terminal, characters that
would command it are escaped.
"""

import argparse
import sys
from typing import Any

from fastmgr.cli import named
from fastmgr.cli.units import one_line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    named.add_name(parser)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    manager = named.connected(options)
    with named.refusing(options.address, manager._authkey):
        found = named.one(manager, options.name)
        value = found.value(manager)
        part = named.part_of(found, value, options)
        if part:
            try:
                _print(value[part[0]])
            except (LookupError, TypeError):
                raise named.no_part(found, options) from None
        elif found.typeid == "Counters":
            for key, number in value.items():
                print(one_line(key), number)
        elif found.typeid == "Array":
            for item in value:
                _print(item)
        else:
            _print(value)
    return 0


def _print(value: Any) -> None:
    """Print a value; a program that reads it gets a text as it is."""
    print(one_line(value) if sys.stdout.isatty() else value)
