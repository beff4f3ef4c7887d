from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fastmgr.client.session import Session
from fastmgr.engines.valkey.address import Address
from fastmgr.engines.valkey.commands import Command, Procedure
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.fences import Fenced
from fastmgr.engines.valkey.life import Life
from fastmgr.engines.valkey.references import References

_Words: TypeAlias = Sequence[bytes | str | int]

class ThreadConnections:
    def close(self) -> None: ...
    def abandon(self) -> None: ...

class ValkeySession(Session):
    where: Address
    ns: bytes
    prefix: bytes
    id: bytes
    life: Life
    clustered: bool
    references: References
    fences: dict[int, tuple[bytes, int]]
    opened: Any
    timeout: float | None
    posting: dict[int, Connection] | None
    def __init__(self, address: str, serializer: str, authkey: bytes, where: Address) -> None: ...
    def reset(self) -> None: ...
    def make_life(self) -> Life: ...
    def connection(self) -> Connection: ...
    def connection_of(self, words: _Words) -> Connection: ...
    def servers(self) -> Sequence[Any]: ...
    def after_fork_in_child(self) -> None: ...
    def introduce_child(self) -> None: ...
    def key_of(self, ident: str) -> bytes: ...
    def ask(self, words: _Words, reads: bool = False, timeout: float | None = None) -> Any: ...
    def run(self, words: _Words, reads: bool = False, timeout: float | None = None) -> Any: ...
    def function(
        self,
        name: bytes,
        key: bytes,
        *args: bytes | str | int,
        reads: bool = False,
        timeout: float | None = None,
    ) -> Any: ...
    def perform(
        self,
        method: Command | Procedure,
        key: bytes,
        args: Sequence[Any],
        kwds: Mapping[str, Any] | None,
    ) -> Any: ...
    def after_error(
        self, words: _Words, reply: ReplyError, timeout: float | None = None
    ) -> Any: ...
    def fence(self, target: Any) -> int: ...
    def fenced(self, target: Any) -> Fenced: ...
    def methods_of(self, typeid: str) -> dict[str, Command | Procedure]: ...

TYPES: dict[bytes, str]
