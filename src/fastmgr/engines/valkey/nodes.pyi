from collections.abc import Sequence
from typing import Any

from fastmgr.engines.valkey.address import Address
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError
from fastmgr.engines.valkey.session import ThreadConnections, ValkeySession, _Words
from fastmgr.engines.valkey.topology import Node, Topology

class NodeConnections(ThreadConnections): ...

class ClusterSession(ValkeySession):
    topology: Topology
    def __init__(self, address: str, serializer: str, authkey: bytes, where: Address) -> None: ...
    def forget_idle(self) -> None: ...
    def server(self, node: Node) -> Server: ...
    def persist(
        self,
        words: _Words,
        failure: ReplyError | BaseException,
        connection: Connection | None,
        reads: bool,
        timeout: float | None,
    ) -> Any: ...
    def look_again(self) -> None: ...
    def after_error_at(
        self,
        connection: Connection | None,
        words: _Words,
        reply: ReplyError,
        reads: bool,
        timeout: float | None,
    ) -> Any: ...

class Server:
    session: ClusterSession
    node: Node
    def __init__(self, session: ClusterSession, node: Node) -> None: ...
    def ask(self, words: _Words, reads: bool = False, timeout: float | None = None) -> Any: ...
    def run(self, words: _Words, reads: bool = False, timeout: float | None = None) -> Any: ...

def slot_of(key: bytes) -> int: ...
def run_by_node(
    session: ClusterSession, requests: Sequence[_Words]
) -> tuple[list[Any], ConnectionLost | None]: ...
