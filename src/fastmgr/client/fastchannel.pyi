from collections.abc import Mapping, Sequence
from typing import Any, final

from fastmgr.link.stream import Stream

class StaleConnection(Exception): ...

class Channel:
    usable: bool
    interrupted: bool
    def call(
        self, ident: str, name: str, args: Sequence[Any], kwds: Mapping[str, Any]
    ) -> tuple[int, Any]: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...

@final
class FastChannel(Channel):
    def __init__(self, stream: Stream) -> None: ...

@final
class StockChannel(Channel):
    def __init__(self, conn: Any) -> None: ...
