from typing import final

from fastmgr.server.disposal import Disposal
from fastmgr.server.table import Table

@final
class Gift: ...

@final
class Gifts:
    def __init__(self, table: Table, disposal: Disposal) -> None: ...
