from typing import final

@final
class Window:
    def __buffer__(self, flags: int, /) -> memoryview: ...

def needs_server(result: object) -> bool: ...
