from typing import Any

from fastmgr.server.hooks import Hooks
from fastmgr.server.table import Entry

class UnknownType(KeyError):
    text: str
    def __init__(self, typeid: str, hooks: Hooks) -> None: ...

def create(
    hooks: Hooks,
    typeid: str,
    args: tuple[Any, ...],
    kwds: dict[str, Any] | None,
    known: bool = False,
) -> Entry: ...
def create_for_stock(
    hooks: Hooks, typeid: str, args: tuple[Any, ...], kwds: dict[str, Any] | None
) -> tuple[str, tuple[str, ...]]: ...
def failed_creation(
    hooks: Hooks, typeid: Any, kwds: dict[str, Any] | None, error: Exception
) -> tuple[int, Any]: ...
def revive(hooks: Hooks, key: Any) -> Entry | None: ...
