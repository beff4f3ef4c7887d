from typing import final

from fastmgr.server.cells import Cells
from fastmgr.server.departures import Departures
from fastmgr.server.disposal import Disposal
from fastmgr.server.driver import Handler
from fastmgr.server.hooks import Hooks
from fastmgr.server.loop import Loop
from fastmgr.server.operations import Operations
from fastmgr.server.parking import Parking
from fastmgr.server.replies import Replies
from fastmgr.server.service import Service

@final
class ServerHandler(Handler):
    def __init__(
        self,
        hooks: Hooks,
        loop: Loop,
        operations: Operations,
        replies: Replies,
        parking: Parking,
        disposal: Disposal,
        cells: Cells,
        departures: Departures,
        service: Service,
        offers_fast: bool,
    ) -> None: ...
