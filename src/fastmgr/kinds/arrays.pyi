from collections.abc import Iterable
from typing import Any

from fastmgr.memory.arena import Celled

class Array(Celled):
    typecode: str
    def __init__(self, typecode: str, sequence: Iterable[Any], lock: bool = True) -> None: ...
    def __len__(self) -> int: ...
