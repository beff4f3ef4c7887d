from typing import Any

from fastmgr.server.connection import Conn
from fastmgr.server.stock_peers import Hooks
from fastmgr.server.table import Entry

class Calls:
    def call(
        self, c: Any, conn: Conn | None, ident: str, name: str, args: Any, kwds: Any
    ) -> tuple[str, Any]: ...

def create_for_stock(
    hooks: Hooks, typeid: str, args: tuple[Any, ...], kwds: dict[str, Any] | None
) -> tuple[str, tuple[str, ...]]: ...
def failed_creation(hooks: Hooks, typeid: Any, kwds: Any, error: Exception) -> tuple[int, Any]: ...
def revive(hooks: Hooks, key: Any) -> Entry | None: ...
