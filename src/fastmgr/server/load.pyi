from typing import final

def has_few_descriptors() -> bool: ...

@final
class Load:
    def __init__(self) -> None: ...
