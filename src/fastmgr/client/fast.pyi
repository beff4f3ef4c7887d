from typing import final

from fastmgr.client.connections import Connections

@final
class ClientSession(Connections): ...
