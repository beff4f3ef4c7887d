from collections.abc import Iterable
from typing import Any

from fastmgr._typing import CountersMethods
from fastmgr.memory.arena import Celled

class Counter(Celled):
    def __init__(self, initial: int = 0) -> None: ...

class Counters(Celled, CountersMethods[Any]):
    names: tuple[Any, ...] | None
    def __init__(self, names: Iterable[Any] | int, values: Iterable[int] | None = None) -> None: ...

def grow(row: Counters, *parts: Counters) -> None: ...
