from typing import final

from fastmgr.server.connection import Conn
from fastmgr.server.hooks import Hooks
from fastmgr.server.load import Load
from fastmgr.server.loop import Loop
from fastmgr.server.operations import Operations
from fastmgr.server.replies import Replies
from fastmgr.server.stock_peers import StockPeers
from fastmgr.server.workers import Workers

@final
class Service:
    def __init__(
        self,
        hooks: Hooks,
        stock_peers: StockPeers,
        workers: Workers,
        loop: Loop,
        load: Load,
        operations: Operations,
        replies: Replies,
    ) -> None: ...
    def work(self, conn: Conn) -> bool: ...
