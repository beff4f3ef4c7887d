"""Any bytes are replies, the same ones however the bytes arrive, or a `ProtocolError`.

The first byte of an input says in which pieces the rest arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import fuzz, instrumented

with instrumented():
    from fastmgr.engines.valkey.errors import ProtocolError
    from fastmgr.engines.valkey.resp import INCOMPLETE, Parser

# Not the package, which needs pytest; and last, for other modules there are named as Python's are.
sys.path.append(str(Path(__file__).parents[1] / "support"))


def replies(pieces: list[bytes]) -> tuple[str, str, bool]:
    """What a parser makes of bytes that arrive in pieces; as texts, for a nan equals nothing."""
    parser = Parser()
    found: list[Any] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (reply := parser.gets()) is not INCOMPLETE:
                found.append(reply)
    except ProtocolError:
        return repr(found), repr(parser.pushes), True
    return repr(found), repr(parser.pushes), False


def one_input(data: bytes) -> None:
    if not data:
        return
    size, rest = data[0] % 20 + 1, data[1:]
    pieces = [rest[i : i + size] for i in range(0, len(rest), size)]
    assert replies(pieces) == replies([rest])


def seeds() -> Iterator[bytes]:
    from resp import SAMPLES

    for number, value in enumerate(SAMPLES.values()):
        yield bytes([number]) + value.spelled
        yield bytes([number]) + b">1\r\n" + value.spelled * 3
    yield b"\x06" + b"".join(value.spelled for value in SAMPLES.values())


def words() -> Iterator[bytes]:
    yield from (b"\r\n", b"$-1\r\n", b"*1\r\n", b"%1\r\n", b"|1\r\n", b">1\r\n", b"inf", b"txt:")
    yield from (bytes([mark]) for mark in b"+-:$*_#,(!=%~|>")


if __name__ == "__main__":
    fuzz(one_input, seeds(), words())
