from collections.abc import Iterable
from typing import Any

from fastmgr._typing import CounterMethods, CountersMethods
from fastmgr.memory.arena import Celled

__all__ = ["Counter", "Counters"]

class Counter(Celled, CounterMethods):
    def __init__(self, initial: int = 0) -> None: ...
    def __int__(self) -> int: ...

class Counters(Celled, CountersMethods[Any]):
    names: tuple[Any, ...] | None
    def __init__(self, names: Iterable[Any] | int, values: Iterable[int] | None = None) -> None: ...

def grow(row: Counters, *parts: Counters) -> None: ...
