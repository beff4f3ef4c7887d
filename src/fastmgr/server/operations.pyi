from typing import final

from fastmgr.server.calls import Calls
from fastmgr.server.cells import Cells
from fastmgr.server.departures import Departures
from fastmgr.server.disposal import Disposal
from fastmgr.server.gifts import Gifts
from fastmgr.server.hooks import Hooks
from fastmgr.server.load import Load
from fastmgr.server.parking import Parking
from fastmgr.server.replies import Replies

@final
class Operations:
    def __init__(
        self,
        hooks: Hooks,
        load: Load,
        calls: Calls,
        replies: Replies,
        gifts: Gifts,
        parking: Parking,
        disposal: Disposal,
        cells: Cells,
        departures: Departures,
    ) -> None: ...
