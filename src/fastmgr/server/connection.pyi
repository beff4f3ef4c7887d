from typing import Any, final

from fastmgr.kinds.waits import Owner
from fastmgr.link.stream import Stream

class Responder: ...

@final
class Conn(Owner):
    stream: Stream
    name: str
    introduced: bool
    def __init__(self, stream: Stream, responder: Responder) -> None: ...
    def send(self, message: tuple[str, Any]) -> None: ...
    def close(self) -> None: ...
