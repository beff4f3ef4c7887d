from typing import final

from fastmgr.server.disposal import Disposal
from fastmgr.server.load import Load
from fastmgr.server.table import Table

@final
class Replies:
    def __init__(self, table: Table, disposal: Disposal, load: Load) -> None: ...
