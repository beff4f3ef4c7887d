"""A Valkey session without a server: what it is asked is kept, and answered as a test says."""

from __future__ import annotations

from typing import Any

from fastmgr.engines.valkey.life import Life

KEY = b"{fm:Lock-0123456789abcdef}"


class ScriptedSession:
    """Answers each request with the next of some replies; an exception among them is raised."""

    address = "valkey://nowhere"
    patience = 0.0
    ns = b"fm"
    prefix = b"{fm:"

    def __init__(self, *replies: Any) -> None:
        self.id = b"00000000000000aa"
        self.replies = list(replies)
        self.asked: list[list[Any]] = []
        self.references = self
        self.pending: list[Any] = []
        self.life = ScriptedLife(self)

    def ask(self, words: Any, reads: bool = False, timeout: float | None = None) -> Any:
        self.asked.append(list(words))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    run = ask

    def function(self, name: bytes, key: bytes, *args: Any, **_options: Any) -> Any:
        return self.ask([b"FCALL", b"fm1_" + name, b"1", key, *args])

    @property
    def functions(self) -> list[Any]:
        """What was asked: names of functions, and of commands."""
        return [words[1] if words[0] == b"FCALL" else words[0] for words in self.asked]


class ScriptedLife(Life):
    """Is seen, and says so."""

    seen = True

    def begin(self) -> None:
        pass

    def is_seen(self, id_: bytes) -> bool:
        return self.seen
