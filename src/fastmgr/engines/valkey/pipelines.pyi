from collections.abc import Mapping, Sequence
from typing import Any

from fastmgr.client.session import Target
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.session import ValkeySession

def run_pipeline(session: ValkeySession, calls: list[Any]) -> tuple[list[Any], list[int]]: ...
def post_call(
    session: ValkeySession,
    target: Target,
    name: str,
    args: Sequence[Any],
    kwds: Mapping[str, Any] | None,
) -> None: ...
def settle_posts(session: ValkeySession, connection: Connection) -> bool: ...
def fail_posts(session: ValkeySession, connection: Connection) -> None: ...
def call_after(
    session: ValkeySession,
    target: Target,
    name: str,
    args: Sequence[Any],
    kwds: Mapping[str, Any] | None,
    takes: bool,
) -> Any: ...
def await_posts(posting: dict[int, Connection]) -> None: ...
def await_own_posts(session: ValkeySession) -> int: ...

UNANSWERED: object
