from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.errors import ReplyError

METHODS: dict[str, dict[str, Command | Procedure]]

class Command:
    reads: bool
    joins: int
    def request(
        self, key: bytes, args: Sequence[Any], kwds: Mapping[str, Any] | None, session: Any
    ) -> Sequence[bytes | str | int]: ...
    def result(
        self,
        reply: Any,
        key: bytes,
        args: Sequence[Any],
        kwds: Mapping[str, Any] | None,
        session: Any,
    ) -> Any: ...
    def failure(
        self,
        reply: ReplyError,
        key: bytes,
        args: Sequence[Any],
        kwds: Mapping[str, Any] | None,
        session: Any,
    ) -> BaseException: ...
    def join_calls(
        self, key: bytes, calls: list[Any], session: Any
    ) -> tuple[Sequence[bytes | str | int], Any] | None: ...
    def split_reply(self, reply: Any, state: Any) -> list[Any]: ...

class Procedure:
    def __call__(
        self, session: Any, key: bytes, args: Sequence[Any], kwds: Mapping[str, Any] | None
    ) -> Any: ...

class FunctionMethod(Procedure):
    @property
    def function(self) -> Callable[..., Any]: ...
    def __init__(self, function: Callable[..., Any]) -> None: ...
