from typing import final

from fastmgr.memory.segments import Segment

@final
class View:
    instance: bytes
    owner: int
    serial: int
    usable: bool
    none: bool
    def __init__(self, owner: int, place: int, instance: bytes, before: View | None) -> None: ...
    def segment(self, number: int) -> Segment | None: ...
