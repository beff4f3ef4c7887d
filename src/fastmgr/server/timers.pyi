from typing import final

@final
class Timers:
    def __init__(self) -> None: ...
