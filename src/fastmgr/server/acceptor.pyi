from typing import Any, final

@final
class Acceptor:
    def __init__(self, server: Any, listener: Any) -> None: ...
