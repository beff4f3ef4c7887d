from typing import final

from fastmgr.client.connections import Channel
from fastmgr.link.stream import Stream

@final
class PickledReply:
    def __init__(self, stream: Stream) -> None: ...

@final
class FastChannel(Channel):
    def __init__(self, stream: Stream) -> None: ...
