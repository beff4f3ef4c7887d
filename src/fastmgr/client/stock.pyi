from typing import Any, final

from fastmgr.client.connections import Channel, Connections

@final
class StockChannel(Channel):
    conn: Any
    def __init__(self, conn: Any) -> None: ...

@final
class StockSession(Connections):
    def flush(self) -> None: ...
