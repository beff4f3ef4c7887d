from typing import Any, final

@final
class Disposal:
    disposing: int
    def __init__(self, workers: Any) -> None: ...
    def drop_here(self, dead: list[Any]) -> None: ...
