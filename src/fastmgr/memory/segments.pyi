from typing import final

@final
class Segment:
    number: int
    size: int
    offset: int
    is_file: bool
    is_cut: bool
    def spoil(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def forget_fd(self) -> None: ...

def map_segment(number: int, fd: int, offset: int, size: int, is_file: bool) -> Segment: ...
