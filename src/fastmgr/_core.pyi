from typing import Any, final

from fastmgr.memory.arena import Arena
from fastmgr.server.connection import Conn
from fastmgr.server.driver import Driver, Handler
from fastmgr.server.load import Load
from fastmgr.server.loop import Loop
from fastmgr.server.table import Entry, Table

def look_inside(entry: Entry) -> None: ...

class UnknownType(KeyError):
    text: str
    def __init__(self, typeid: str, server: Any) -> None: ...

def failed_creation(
    server: Any, typeid: Any, kwds: dict[str, Any] | None, error: Exception
) -> tuple[int, Any]: ...
def create(
    server: Any, typeid: str, args: tuple[Any, ...], kwds: dict[str, Any], known: bool = False
) -> Entry: ...
def revive(server: Any, key: Any) -> Entry | None: ...

@final
class Worker(Driver):
    def __init__(self, load: Load) -> None: ...

@final
class Engine(Handler):
    loop: Loop
    table: Table
    disposing: int
    def __init__(
        self,
        server: Any,
        listener: Any,
        workers: Any,
        offers_fast: bool,
        arena: Arena | None = None,
    ) -> None: ...
    def run(self) -> None: ...
    @property
    def conns(self) -> dict[int, Conn]: ...
    def dispose_now(self, dead: list[Entry]) -> None: ...
    def work(self, conn: Conn) -> bool: ...
    def call(
        self, c: Any, ident: str, name: str, args: tuple[Any, ...], kwds: dict[str, Any]
    ) -> tuple[str, Any]: ...
