"""The smallest type that a Valkey server can host, for tests of what no type is needed for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastmgr import MakeProxyType, SyncManager, Token
from fastmgr.engines.valkey.commands import METHODS, Command, Procedure
from support.valkeys import KINDS, Server, server


class Words(Command):
    """A method that is a command, with the object's key after its first word."""

    def __init__(self, *words: Any, reads: bool = False, then: Any = lambda reply: reply) -> None:
        self.words = words
        self.reads = reads
        self.then = then

    def request(self, key: bytes, args: Any, kwds: Any, session: Any) -> list[Any]:
        for word in args:
            if not isinstance(word, (str, int, bytes)):
                raise TypeError(f"{word!r} is no word")
        return [self.words[0], key, *self.words[1:], *args]

    def result(self, reply: Any, key: bytes, args: Any, kwds: Any, session: Any) -> Any:
        return self.then(reply)


class Plain(Command):
    """Each call is ``FCALL joined 1 key field``; up to three calls are one."""

    joins = 3

    def request(self, key: bytes, args: Any, kwds: Any, session: Any) -> list[Any]:
        if not isinstance(args[0], str):
            raise TypeError("no field")
        return [b"FCALL", b"joined", b"1", key, *args]

    def result(self, reply: Any, key: bytes, args: Any, kwds: Any, session: Any) -> Any:
        if reply[0] is None:
            raise ValueError("bad field")
        return reply[0]


class Joined(Plain):
    """The same, with a rule of its own for what is joined."""

    def join_calls(self, key: bytes, calls: list[Any], session: Any) -> Any:
        fields = [args[0] for args in calls[::2]]
        if "alone" in fields:
            return None
        return [b"FCALL", b"joined", b"1", key, *fields], len(fields)

    def split_reply(self, reply: Any, state: Any) -> list[Any]:
        assert len(reply) == state
        return [NotImplemented if one is None else one for one in reply]


#: What `Joined` calls: adds 1 to each field, and returns the sums; nothing for a field that is bad.
#: The hash counts the calls of the function as ``calls``.
LIBRARY = """#!lua name=tests
redis.register_function('joined', function(K, A)
  redis.call('HINCRBY', K[1], 'calls', 1)
  local sums = {}
  for i, field in ipairs(A) do
    sums[i] = field ~= 'bad' and redis.call('HINCRBY', K[1], field, 1)
  end
  return sums
end)
"""


class Twice(Procedure):
    """A method of two requests."""

    def __call__(self, session: Any, key: bytes, args: Any, kwds: Any) -> Any:
        session.run([b"HINCRBY", key, args[0], 1])
        return session.run([b"HINCRBY", key, args[0], 1])


class Doubled(Command):
    """A method that computes here with what its request reads, and writes the result."""

    def request(self, key: bytes, args: Any, kwds: Any, session: Any) -> list[Any]:
        return [b"HGET", key, *args]

    def result(self, reply: Any, key: bytes, args: Any, kwds: Any, session: Any) -> Any:
        session.run([b"HSET", key, *args, 2 * int(reply)])
        return 2 * int(reply)


class Refused(Command):
    """Adds 1 to a field; the server refuses that three times, as it does while a script runs."""

    SCRIPT = """
if redis.call('INCR', KEYS[1] .. ':tries') < 4 then return redis.error_reply('BUSY a script') end
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
"""

    def request(self, key: bytes, args: Any, kwds: Any, session: Any) -> list[Any]:
        return [b"EVAL", self.SCRIPT, 1, key, *args]


def text(reply: bytes | None) -> str | None:
    if reply is None:
        raise KeyError("no such field")
    return reply.decode()


HASH: dict[str, Command | Procedure] = {
    "get": Words("HGET", reads=True, then=text),
    "set": Words("HSET"),
    "add": Words("HINCRBY"),
    "push": Words("RPUSH"),
    "wait": Words("BLPOP"),
    "joined": Joined(),
    "plain": Plain(),
    "twice": Twice(),
    "doubled": Doubled(),
    "refused": Refused(),
    "pop": Words("HDEL"),
}


HashProxy: Any = MakeProxyType("HashProxy", tuple(HASH))


@contextmanager
def hosted() -> Iterator[None]:
    """Let Valkey servers host hashes."""
    METHODS["Hash"] = HASH
    try:
        yield
    finally:
        del METHODS["Hash"]


@pytest.fixture
def hashes() -> Iterator[None]:
    """Let Valkey servers host hashes in a test."""
    with hosted():
        yield


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, for the tests of one module."""
    with server(request.param) as one:
        yield one


def hash_of(manager: SyncManager, name: str = "1") -> Any:
    """Return a proxy of a hash, which is there as soon as it has a field."""
    token = Token("Hash", manager.address, f"Hash-{name}")
    return HashProxy(token, "pickle", manager=manager, incref=False)
