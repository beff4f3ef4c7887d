import threading
from pickle import Pickler
from typing import Any, final

class WireError(ValueError): ...

class _Transit(threading.local):
    sink: list[Any] | None

transit: _Transit

def note_transit(entry: Any) -> None: ...

@final
class Opaque:
    def load(self) -> Any: ...

def check_nesting(data: bytes) -> int: ...
def use_pickler(kind: type[Pickler]) -> None: ...
