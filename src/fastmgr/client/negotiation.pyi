from typing import final

from fastmgr.client.fast import FastSession

@final
class ClientSession(FastSession): ...
