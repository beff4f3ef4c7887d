from typing import final

from fastmgr.server.disposal import Disposal
from fastmgr.server.gifts import Gifts
from fastmgr.server.loop import Loop
from fastmgr.server.replies import Replies

@final
class Parking:
    def __init__(self, loop: Loop, replies: Replies, gifts: Gifts, disposal: Disposal) -> None: ...
