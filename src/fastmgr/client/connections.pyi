from typing import Any

from fastmgr.client.references import References

HASTE: float
authkeys: dict[Any, bytes]

class StaleConnection(Exception): ...

class Channel:
    usable: bool
    interrupted: bool
    def close(self) -> None: ...
    def abandon(self) -> None: ...

class Connections(References):
    timeout: float | None
    def __init__(
        self, address: Any, serializer: str, authkey: bytes, timeout: float | None = None
    ) -> None: ...
