from collections.abc import Callable
from typing import final

from fastmgr.memory.arena import Celled

class Owner: ...

@final
class Waiter:
    def __init__(self, owner: Owner, sink: Callable[[Waiter], object] | None = None) -> None: ...

class Primitive(Celled): ...
