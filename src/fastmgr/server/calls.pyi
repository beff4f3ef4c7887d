from typing import Any, final

from fastmgr.server.connection import Conn
from fastmgr.server.stock_peers import Hooks
from fastmgr.server.table import Entry

@final
class Calls:
    def __init__(self, hooks: Hooks, gifts: Any, create: Any) -> None: ...
    def call(
        self, c: Any, conn: Conn | None, ident: str, name: str, args: Any, kwds: Any
    ) -> tuple[str, Any]: ...

def create_for_stock(
    hooks: Hooks, typeid: str, args: tuple[Any, ...], kwds: dict[str, Any] | None
) -> tuple[str, tuple[str, ...]]: ...
def failed_creation(hooks: Hooks, typeid: Any, kwds: Any, error: Exception) -> tuple[int, Any]: ...
def revive(hooks: Hooks, key: Any) -> Entry | None: ...
