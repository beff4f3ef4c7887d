import threading
from collections.abc import Callable
from typing import Any, final

from fastmgr.memory.cells import Celled

here: threading.local

class Owner:
    number: int
    waiter: Waiter | None

@final
class Waiter:
    owner: Owner
    deadline: float
    finished: bool
    failed: bool
    value: Any
    def __init__(self, owner: Owner, sink: Callable[[Waiter], object] | None = None) -> None: ...

class Primitive(Celled): ...
