from typing import Any

from fastmgr.client.session import Session

authkeys: dict[Any, bytes]

class Connections(Session):
    def __init__(
        self, address: Any, serializer: str, authkey: bytes, timeout: float | None = None
    ) -> None: ...
