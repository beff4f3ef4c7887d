from typing import final

@final
class Load:
    def __init__(self) -> None: ...
