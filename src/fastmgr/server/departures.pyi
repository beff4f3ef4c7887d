from typing import final

from fastmgr.server.cells import Cells
from fastmgr.server.disposal import Disposal
from fastmgr.server.gifts import Gifts
from fastmgr.server.parking import Parking
from fastmgr.server.table import Table

@final
class Departures:
    def __init__(
        self, table: Table, cells: Cells, gifts: Gifts, parking: Parking, disposal: Disposal
    ) -> None: ...
