"""List the objects that have a name on a server: name, type, and what they have, shortened.

Programs make them as manager.Counter(name="hits"). Other objects have no name, and only those who
have a proxy of one can find it.
"""

import argparse
import json
import reprlib
from itertools import islice
from typing import Any

import fastmgr
from fastmgr.cli import named
from fastmgr.cli.named import Unreadable
from fastmgr.cli.options import Refusal
from fastmgr.cli.units import one_line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    parser.add_argument(
        "--json", action="store_true", help="an object on each line, with nothing shortened"
    )


class _InOrder(reprlib.Repr):
    """Shortens as `reprlib.repr` does, but keeps a dict's order, which is that of a row."""

    def repr_dict(self, row: dict[Any, Any], level: int) -> str:
        shown = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(row.items(), self.maxdict)
        ]
        return f"{{{', '.join(shown + ['...'] * (len(row) > self.maxdict))}}}"


_shortened = _InOrder().repr


def run(options: argparse.Namespace) -> int:
    """Print a line for each object."""
    manager = named.connected(options)
    rows = []
    with named.refusing(options.address, manager._authkey):
        for found in named.listed(manager):
            try:
                value = found.value(manager)
                if isinstance(value, fastmgr.BaseProxy):  # `get` prints what the other object has
                    value = short = f"<{value._token.typeid} {value._token.id}>"  # as in `top`
                else:
                    short = _shortened(value)
            except Refusal as error:
                value, short = None, "<unreadable here>" if isinstance(error, Unreadable) else ""
            if options.json:
                about = {"name": found.name, "type": found.typeid, "value": value}
                print(json.dumps(about, default=repr))
            else:
                rows.append(tuple(map(one_line, (found.name, found.typeid, short))))
    if rows:
        first = max(len(name) for name, _, _ in rows)
        second = max(len(typeid) for _, typeid, _ in rows)
        for name, typeid, short in rows:
            print(f"{name:{first}}  {typeid:{second}}  {short}".rstrip())
    elif not options.json:
        print("nothing has a name there")
    return 0
