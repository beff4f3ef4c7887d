from typing import final

from fastmgr.memory.cells import Celled

class Owner: ...

@final
class Waiter: ...

class Primitive(Celled): ...
