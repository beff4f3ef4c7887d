from enum import IntEnum
from typing import final

class Op(IntEnum):
    OP_CALL = 1
    OP_CREATE = 2
    OP_CONTROL = 3
    OP_INCREF = 4
    OP_RELEASE = 5
    OP_GOODBYE = 6
    OP_LOCATE = 7
    OP_ATTACH = 8
    OP_RETURN = 16
    OP_ERROR = 17
    OP_TRACEBACK = 18
    OP_PROXY = 19
    OP_UNSERIALIZABLE = 20
    OP_FAILED = 21

KINDS: dict[int, str]
OPS: dict[str, int]

@final
class Stream:
    def __init__(self, fd: int, limit: int = 0) -> None: ...
    def recv_bytes(self, *, patient: bool = True) -> bytes: ...
    def send_bytes(self, *bodies: bytes) -> None: ...
    def set_limit(self, limit: int) -> None: ...
    def set_timeout(self, seconds: float) -> None: ...
    def acknowledge(self) -> None: ...
    def poll(self, seconds: float | None = 0.0) -> bool: ...
    def fileno(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
