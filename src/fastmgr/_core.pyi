from collections.abc import Callable
from typing import Any, final

from fastmgr.memory.arena import Arena
from fastmgr.server.loop import Loop
from fastmgr.server.process import Workers
from fastmgr.server.report import Reporter
from fastmgr.server.stock_peers import Hooks, StockPeers

@final
class Engine:
    loop: Loop
    stock_peers: StockPeers
    reporter: Reporter
    def __init__(
        self,
        hooks: Hooks,
        listener: Any,
        workers: Workers,
        offers_fast: bool,
        create: Callable[..., tuple[str, tuple[str, ...]]] | None = None,
        arena: Arena | None = None,
    ) -> None: ...
    def run(self) -> None: ...
    @property
    def disposing(self) -> int: ...
