"""Print what a named object has: a number, or a line for each of its counters or items."""

import argparse

from fastmgr.cli import named


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    named.add_name(parser)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    manager = named.connected(options)
    found = named.one(manager, options)
    value = found.value(manager)
    part = named.part_of(found, manager, options)
    if part:
        try:
            print(value[part[0]])
        except (LookupError, TypeError):
            raise named.no_part(found, options) from None
    elif isinstance(value, dict) and found.typeid == "Counters":
        for key, number in value.items():
            print(key, number)
    elif found.typeid == "Array":
        for item in value:
            print(item)
    else:
        print(value)
    return 0
