from typing import final

from fastmgr.client.session import Session

@final
class Holding: ...

@final
class Reference: ...

class References(Session): ...
