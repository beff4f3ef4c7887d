"""Values to bytes and back: the encoding of the fast dialect."""

from fastmgr.wire.opaque import WireError
from fastmgr.wire.reader import loads
from fastmgr.wire.writer import dumps

__all__ = ["WireError", "dumps", "loads"]
