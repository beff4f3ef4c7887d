from threading import Lock
from typing import Any, final

@final
class Reporter:
    lock: Lock
    asking: int
    def __init__(self, hooks: Any, workers: Any, loop: Any, arena: Any) -> None: ...
    def report(self, most: int, by: str) -> dict[str, Any]: ...
