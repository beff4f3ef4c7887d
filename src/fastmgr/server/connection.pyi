from typing import Any, final

from fastmgr.kinds.waits import Owner
from fastmgr.link.stream import Stream

@final
class Conn(Owner):
    stream: Stream
    name: str
    def __init__(self, stream: Stream, handler: Any) -> None: ...
    def send(self, message: tuple[str, Any]) -> None: ...
    def close(self) -> None: ...
