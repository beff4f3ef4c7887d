from typing import final

@final
class Segment:
    size: int
    offset: int
    def spoil(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
