"""The library of functions that the servers run: its text, and how a server gets it.

The text is the files of ``lua/``, one after the other.  All libraries of a server share one space
of names, so the version is part of each name: versions of fastmgr whose libraries differ use one
server side by side.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastmgr.engines.valkey.errors import ReplyError, exception_of

__all__ = ["NAME", "VERSION", "load", "text"]

#: Grows when a function that was released changes what it takes, returns or does.
VERSION = 1
#: What a server calls the library; the functions' names begin with ``fm1_``.
NAME = f"fastmgr{VERSION}"

#: The files that all others use.
_SHARED = ("core", "references", "sums", "waiters")
_FOLDER = Path(__file__).parent / "lua"


def text() -> str:
    """Return the text that a server is given."""
    names = sorted({path.stem for path in _FOLDER.glob("*.lua")} - set(_SHARED))
    # The locals of the shared files are seen by all; Lua allows 200 of them at a time.
    parts = [*map(_source, _SHARED), *(f"do\n{_source(name)}end\n" for name in names)]
    return f"#!lua name={NAME}\n" + "".join(parts).replace("fm1_", f"fm{VERSION}_")


def _source(name: str) -> str:
    source = (_FOLDER / f"{name}.lua").read_text("utf-8")
    return re.sub(r"^\s*--[^\n]*\n", "", source, flags=re.MULTILINE)


def load(server: Any) -> None:
    """Give a server the library, in place of another text of the same version.

    Parameters
    ----------
    server : ValkeySession or Connection
        What has ``ask`` or ``call``, which takes a request and returns the reply.

    Raises
    ------
    RemoteError
        The server refuses the library.
    """
    ask = server.ask if hasattr(server, "ask") else server.call
    reply = ask([b"FUNCTION", b"LOAD", text()])
    if isinstance(reply, ReplyError) and "already exists" in reply.text:
        reply = ask([b"FUNCTION", b"LIST", b"LIBRARYNAME", NAME, b"WITHCODE"])
        if not isinstance(reply, ReplyError) and text().encode() in _strings(reply):
            return  # another client was first
        reply = ask([b"FUNCTION", b"LOAD", b"REPLACE", text()])
    if isinstance(reply, ReplyError):
        raise exception_of(reply)


def _strings(reply: Any) -> list[bytes]:
    if isinstance(reply, dict):
        return [found for pair in reply.items() for part in pair for found in _strings(part)]
    if isinstance(reply, list):
        return [found for part in reply for found in _strings(part)]
    return [reply] if isinstance(reply, bytes) else []
