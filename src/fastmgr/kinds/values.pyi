from typing import Any

from fastmgr._typing import ValueMethods
from fastmgr.memory.arena import Celled

class Value(Celled, ValueMethods[Any]):
    _typecode: Any
    _value: Any
    _other: Any
    keeper: str | None
    def __init__(self, typecode: str, value: Any, lock: bool = True) -> None: ...
