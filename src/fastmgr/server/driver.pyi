from typing import final

from fastmgr.server.connection import Responder

class Driver: ...

@final
class Worker(Driver): ...

class Handler(Responder): ...
