from typing import final

from fastmgr.memory.arena import Arena
from fastmgr.server.replies import Replies
from fastmgr.server.table import Table

@final
class Cells:
    def __init__(self, arena: Arena | None, table: Table, replies: Replies) -> None: ...
