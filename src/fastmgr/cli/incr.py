"""Add to a named counter or value, in one step, and print the sum.

It has to be there: a program makes it, as manager.Counter(name="hits").
"""

import argparse
from typing import Any

from fastmgr.cli import named
from fastmgr.cli.options import Refusal, said


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    named.add_name(parser)
    parser.add_argument(
        "--by", type=_number, default=1, metavar="N", help="how much (default: %(default)s)"
    )


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a number is needed") from None


def run(options: argparse.Namespace) -> int:
    """Add, and print the sum."""
    manager = named.connected(options)
    with named.refusing(options.address, manager._authkey):
        found = named.one(manager, options.name)
        proxy = found.proxy(manager)
        print(_sum(found, proxy, options))
    return 0


def _sum(found: named.Named, proxy: Any, options: argparse.Namespace) -> Any:
    """Add, and return the sum; `Refusal` where that does not go."""
    is_row = found.typeid in ("Counters", "Array")
    part = named.part_of(found, proxy if is_row else None, options)
    if is_row and not part:
        raise Refusal(f"{found.name!r} is a row of numbers: say which, KEY")
    try:
        return proxy.incr(*part, options.by)
    except LookupError:
        raise named.no_part(found, options) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(f"{found.name!r}: {options.by} is not added: {said(error)}", 1) from None
