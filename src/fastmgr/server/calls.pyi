from collections.abc import Callable
from typing import Any, final

from fastmgr.server.connection import Conn
from fastmgr.server.gifts import Gifts
from fastmgr.server.hooks import Hooks

@final
class Calls:
    def __init__(
        self, hooks: Hooks, gifts: Gifts, create: Callable[..., tuple[str, tuple[str, ...]]] | None
    ) -> None: ...
    def call(
        self,
        c: Any,
        conn: Conn | None,
        ident: str,
        name: str,
        args: tuple[Any, ...],
        kwds: dict[str, Any],
    ) -> tuple[str, Any]: ...
